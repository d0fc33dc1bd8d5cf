"""Several rings under one head: each holds the whole model, and one may go."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.butterfly.models import greedy, tiny  # noqa: E402
from tests.butterfly.test_planning import (  # noqa: E402
    PROMPTS,
    Nodes,
    answers,
    plan_of,
    run,
    told,
)

from butterfly.api.state import state_of  # noqa: E402
from butterfly.cluster.head import Head  # noqa: E402
from butterfly.errors import ConfigurationError  # noqa: E402
from butterfly.monitoring.metrics import Metrics  # noqa: E402
from butterfly.scheduling import Sequence as Asked  # noqa: E402

COUNT, LONG = 14, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return tmp_path_factory.mktemp("twice")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> list[list[int]]:
    """What the whole model says; of the first prompt more."""
    torch.set_num_threads(1)
    whole = tiny(folder, "qwen2", eos_token_id=None, vocab_size=512)
    return [greedy(whole, PROMPTS[0], LONG)] + [
        greedy(whole, prompt, COUNT) for prompt in PROMPTS[1:]
    ]


async def whole(head: Head, nodes: Nodes, count: int = 2) -> None:
    """Wait until so many rings serve."""
    await nodes.until(lambda: sum(r.pump.ring is not None for r in head.rings) == count)


async def streamed(head: Head, *names: str, nodes: Nodes) -> tuple[list[int], Asked]:
    """Return what comes, token by token; in the middle some nodes die."""
    asked, came = Asked(list(PROMPTS[0]), LONG), list[int]()
    async with asyncio.timeout(60):
        async for token in head.generate(asked):
            assert token.drawn.token is not None
            came.append(token.drawn.token)
            if len(came) == 5:
                await nodes.end(*names)
    return came, asked


def test_two_rings_share_the_requests(folder: Path, oracle: list[list[int]]) -> None:
    """Both compute, all say what one would, and who watches sees which did what."""

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        assert await answers(head) == [one[:COUNT] for one in oracle]
        state = state_of(head)
        rows = [ring.rows for ring in state.rings]
        assert min(rows) > 0 and sum(rows) == state.rows
        stages = [(s.ring, s.stage, s.node, s.first, s.last) for s in state.stages]
        assert stages == [(1, 1, "a", 0, 4), (2, 1, "b", 0, 4)]
        text = Metrics(lambda: state).text().decode()
        assert f'butterfly_ring_rows_total{{ring="2"}} {rows[1]}.0' in text
        assert state.room == 2 * 4 * 64

    run(told(folder, stages=1, replicas=2), "ab", work)


def test_idle_rings_are_asked_for_what_they_hold(
    folder: Path, oracle: list[list[int]]
) -> None:
    """The next turn of a conversation goes where the turn before was."""

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        for _ in range(2):
            asked = Asked(list(PROMPTS[1]), COUNT)
            _ = [token async for token in head.generate(asked)]
            assert asked.output == oracle[1]
        assert sorted(r.rows > 0 for r in state_of(head).rings) == [False, True]
        assert asked.reused == len(PROMPTS[1]) - 1

    run(told(folder, stages=1, replicas=2), "ab", work)


def test_what_a_ring_without_nodes_has_open_goes_on(
    folder: Path, oracle: list[list[int]]
) -> None:
    """On the other ring, token for token; a node that comes makes it whole again."""

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        came, asked = await streamed(head, head.stages[0].name, nodes=nodes)
        assert came == asked.output == oracle[0]
        state = state_of(head)
        assert [ring.nodes for ring in state.rings] == [0, 1] and state.is_serving
        assert not head.trouble and state.rings[1].rows > LONG - 6
        nodes.start("c")
        await whole(head, nodes)
        assert [stage.node for stage in state_of(head).stages] == ["c", "b"]

    run(told(folder, stages=1, replicas=2), "ab", work)


def test_a_ring_that_loses_a_node_recovers_alone(
    folder: Path, oracle: list[list[int]]
) -> None:
    """Its survivor takes all layers; the epoch of the other ring goes on."""

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        ring, other = head.rings
        epoch = other.epoch
        came, asked = await streamed(head, ring.stages[1].name, nodes=nodes)
        assert came == asked.output == oracle[0]
        assert other.epoch == epoch and ring.epoch > epoch
        assert [len(one.stages) for one in head.rings] == [1, 2]
        assert other.pump.scheduler.rows == 0

    run(told(folder, stages=2, replicas=2), "abcd", work)


def test_a_standby_goes_where_a_stage_is_missing(
    folder: Path, oracle: list[list[int]]
) -> None:
    """Whichever ring it waited at; sleep and waking up reach all rings."""

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        nodes.start("c")
        await nodes.until(lambda: len(head.members) == 3)
        lonely = next(ring for ring in head.rings if len(ring.members) == 1)
        await nodes.end(lonely.stages[0].name)
        await nodes.until(lambda: [m.name for m in lonely.stages] == ["c"])
        await whole(head, nodes)
        await head.sleep()
        assert head.is_asleep and all(m.is_asleep for m in head.stages)
        asked = asyncio.ensure_future(answers(head))
        await head.wake()
        assert await asked == [one[:COUNT] for one in oracle]

    run(told(folder, stages=1, replicas=2), "ab", work)


def test_each_chain_of_a_plan_is_a_ring(folder: Path, oracle: list[list[int]]) -> None:
    """Nodes go where the plan names them, in whatever order they come."""
    plan = plan_of(("b", 0, 0), ("a", 1, 3))
    plan = replace(plan, chains=(*plan.chains, *plan_of(("c", 0, 3)).chains))

    async def work(head: Head, nodes: Nodes) -> None:
        await whole(head, nodes)
        found = [(s.ring, s.node, s.first, s.last) for s in state_of(head).stages]
        assert found == [(1, "b", 0, 1), (1, "a", 1, 4), (2, "c", 0, 4)]
        assert await answers(head) == [one[:COUNT] for one in oracle]

    run(told(folder, plan, replicas=2), "cab", work)
    with pytest.raises(ConfigurationError, match="the plan has 2 chains, and 3 rings"):
        Head(told(folder, plan, replicas=3))
