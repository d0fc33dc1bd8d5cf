"""What trainings came to, how they compare, and the stored ones of peers."""

import math
from pathlib import Path

import pytest
from benchmarks.peers.training import BUDGETS, PEERS, SEEDS, main, work_of
from benchmarks.simworld import FAMILIES, World
from benchmarks.trained import Cell, Stored, Trained, best, gap, write


def cell(*scores: float) -> Cell:
    """Return a cell with some scores."""
    return Cell.of([Trained(score, 200, 1000, 300) for score in scores])


def test_an_interval_is_students() -> None:
    """The half-width for five equally spaced scores is t(4) times s over root 5."""
    half = 2.776 * math.sqrt(0.00025) / math.sqrt(5)
    assert cell(0.90, 0.91, 0.92, 0.93, 0.94).half == pytest.approx(half)
    assert cell(0.9).half == math.inf
    assert cell(0.9, 0.9).told() == "0.900 +-0.000"


def test_a_difference_has_the_interval_of_both() -> None:
    """Two equal spreads give twice the variance and both's degrees of freedom."""
    more, half = gap([cell(0.8, 0.9)], [cell(0.5, 0.6)])
    assert more == pytest.approx(0.3)
    assert half == pytest.approx(4.303 * math.sqrt(2 * 0.0025))


def test_families_count_alike() -> None:
    """The mean of two families is that of their means, with a smaller interval."""
    one = cell(0.8, 0.9)
    mean, half = gap([one, cell(0.2, 0.3, 0.2, 0.3)])
    assert mean == pytest.approx(0.55)
    assert half < one.half
    assert gap([one, one], [one, one]) == (0.0, pytest.approx(2.776 * 0.05))


def test_the_best_peer_is_named() -> None:
    """The highest mean in those families counts; who lacks one is left out."""
    high, low = cell(0.9, 0.9), cell(0.1, 0.2)
    peers = {
        "weak": Stored(families={"one": {200: low, 400: high}, "long": {200: low}}),
        "good": Stored(families={"one": {200: high}}),
        "none": Stored(),
    }
    assert best(peers, ["one"], 200)[0] == "good"
    assert best(peers, ["one", "long"], 200) == ("weak", [low, low])
    assert best(peers, ["one"], 400) == ("weak", [high])


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    """A file gives what was written, and has a line for each list."""
    peer = Stored("1.2", {"val": 15, "names": ["a"]}, {"one": {200: cell(0.1, 0.2)}})
    path = tmp_path / "trained.json"
    write({"peer": peer}, path)
    assert Stored.read(path) == {"peer": peer}
    assert '"score": [0.1, 0.2],' in path.read_text("utf-8")
    assert Stored.read(tmp_path / "none.json") == {}


def test_every_peer_is_stored_in_every_family() -> None:
    """The stored file has versions, settings, and a cell for each budget."""
    peers = Stored.read()
    assert set(peers) == {peer.name for peer in PEERS}
    for peer in peers.values():
        assert peer.version
        assert peer.settings
        assert set(peer.families) == set(FAMILIES)
        for cells in peer.families.values():
            assert set(cells) == set(BUDGETS)
            for rollouts, kept in cells.items():
                assert len(kept.score) == len(SEEDS)
                assert all(0.0 <= score <= 1.0 for score in kept.score)
                assert all(0 < used < 1.25 * rollouts for used in kept.rollouts)
                assert min(kept.tokens) > min(kept.requests) > 0


def test_every_peer_has_a_script_and_its_needs() -> None:
    """What `make bench-peers` installs and runs is there."""
    folder = Path(work_of.__code__.co_filename).parent
    for peer in PEERS:
        assert (folder / peer.script).is_file()
        assert (folder / "needs" / f"{peer.environment}.txt").is_file()


def test_a_peer_is_not_told_the_held_out_orders() -> None:
    """A script gets prompts, training and validation orders, and no rule's mark."""
    world = World("one", seed=1)
    told = work_of(world, "http://127.0.0.1:1/v1", 200)
    ids = {row[0] for row in (*told["train"], *told["val"])}
    assert not ids & {example.id for example in world.test}
    assert (len(ids), told["rollouts"], told["seed"]) == (120, 200, 1)


def test_an_unknown_peer_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    """A word that names no peer is told, and trains nothing."""
    assert main(["nope"]) == 2
    assert "no peer 'nope'; there are gepa, dspy-gepa" in capsys.readouterr().out
