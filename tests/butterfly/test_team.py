"""Layers that several processes compute together: what one process computes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.butterfly.models import FAMILIES, greedy, tiny  # noqa: E402
from tests.butterfly.nursery import Nursery  # noqa: E402
from tests.butterfly.server_helpers import KEY, SECRET, until  # noqa: E402
from tests.butterfly.test_adapters import adapter  # noqa: E402

from butterfly.api import server  # noqa: E402
from butterfly.cli import main  # noqa: E402
from butterfly.cluster import node as cluster_node  # noqa: E402
from butterfly.cluster import profile  # noqa: E402
from butterfly.cluster.measuring import answered as answered_by  # noqa: E402
from butterfly.cluster.roles import Role  # noqa: E402
from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.engine.shard import Shard, styles_of  # noqa: E402
from butterfly.engine.stage import Shape, Stage  # noqa: E402
from butterfly.engine.team import Team, stage_of  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402
from butterfly.errors import ConfigurationError, LinkError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_check:FutureWarning")
PROMPT = [1, 17, 90, 4, 55]
ROOM = Shape(0, 4, 8, 64)


class Parts:
    """All parts of a stage in this process, a thread each."""

    def __init__(self, checkpoint: Checkpoint, count: int) -> None:
        self._barrier = threading.Barrier(count)
        self._terms: list[Any] = [None] * count
        config = checkpoint.config()
        self.stages = [
            Stage(checkpoint, ROOM, shard=Shard.of(config, k, count, self._adding(k)))
            for k in range(count)
        ]

    def _adding(self, rank: int) -> Callable[[Any], None]:
        def add(tensor: Any) -> None:
            self._terms[rank] = tensor.clone()
            self._barrier.wait(30)
            found = sum(self._terms)
            self._barrier.wait(30)
            tensor.copy_(found)

        return add

    def forward(self, tokens: list[int], segments: list[Segment]) -> list[Any]:
        """Return what each part has after all layers."""
        hidden = self.stages[0].embed(torch.tensor(tokens))
        found: list[Any] = [None] * len(self.stages)

        def run(rank: int) -> None:
            found[rank] = self.stages[rank].forward(hidden, segments)

        threads = [threading.Thread(target=run, args=(k,)) for k in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return found


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_layers_add_up(tmp_path: Path, family: str) -> None:
    """In every family, with prompts and rows that decode; each part has them all."""
    torch.set_num_threads(1)
    tiny(tmp_path, family)
    checkpoint = Checkpoint(tmp_path)
    alone, parts = Stage(checkpoint, ROOM), Parts(checkpoint, 2)
    frames = [
        (PROMPT * 2, [Segment(0, 0, 5), Segment(1, 0, 5)]),
        ([7, 8, 9], [Segment(0, 5, 1), Segment(1, 5, 2)]),
    ]
    for tokens, segments in frames:
        expected = alone.forward(alone.embed(torch.tensor(tokens)), segments)
        one, other = parts.forward(tokens, segments)
        assert torch.allclose(one, expected, atol=1e-4)
        assert torch.equal(one, other)
    sizes = [s._inner.layers[0].mlp.up_proj.weight.shape for s in parts.stages]
    assert sizes == [(32, 32)] * 2
    assert alone.lanes.nbytes == 2 * parts.stages[1].lanes.nbytes


def test_adapters_are_cut_like_their_layers(tmp_path: Path) -> None:
    """Columns and rows; with plain rows in the same frame."""
    pytest.importorskip("peft")
    adapter(tmp_path, 1, target_modules=["q_proj", "o_proj", "up_proj", "down_proj"])
    checkpoint = Checkpoint(tmp_path / "base1")
    alone, parts = Stage(checkpoint, ROOM), Parts(checkpoint, 2)
    for stage in (alone, *parts.stages):
        stage.adapters.load(3, tmp_path / "adapter1")
    segments = [Segment(0, 0, 5, adapter=3), Segment(1, 0, 5)]
    expected = alone.forward(alone.embed(torch.tensor(PROMPT * 2)), segments)
    one, _ = parts.forward(PROMPT * 2, segments)
    assert torch.allclose(one, expected, atol=1e-3)
    assert not torch.allclose(one[:5], one[5:], atol=1.0)


def config_of(**told: Any) -> Any:
    """Return a configuration of which only the sizes count."""
    plan = {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2}
    given = {"model_type": "m", "intermediate_size": 64, "base_model_tp_plan": plan}
    return SimpleNamespace(**sizes, **{**given, **told})


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"num_key_value_heads": 1}, "3 parts: the model has num_attention_heads = 4"),
        ({"base_model_tp_plan": None}, "family 'm' cannot be cut"),
        ({"base_model_tp_plan": {"layers.*.x": "packed"}}, "family 'm' cannot be cut"),
    ],
)
def test_what_cannot_be_cut_is_refused(told: dict[str, Any], said: str) -> None:
    """By the plan of transformers, and by numbers that do not divide."""
    given = {k: v for k, v in told.items() if k != "num_key_value_heads"}
    with pytest.raises(ConfigurationError, match=said):
        styles_of(config_of(**given), 3)


def test_a_device_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Sums go over the memory of the machine."""
    tiny(tmp_path)
    with pytest.raises(ConfigurationError, match="on a CPU only, and the device is 'm"):
        stage_of(Checkpoint(tmp_path), ROOM, device="meta", tensor=2)


@pytest.fixture(scope="module")
def team(tmp_path_factory: Any) -> Iterator[tuple[Any, Checkpoint, Team]]:
    """A tiny model, its checkpoint, and two processes that compute it."""
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("team")
    model = tiny(folder, "qwen2")
    found = stage_of(Checkpoint(folder), ROOM, tensor=2)
    assert isinstance(found, Team)
    yield model, Checkpoint(folder), found
    found.close()


def answered(stage: Stage, prompt: list[int], count: int) -> list[int]:
    """Return what a stage of all layers says, greedily."""
    tokens, start = list(prompt), 0
    while len(tokens) < len(prompt) + count:
        rows = tokens[start:]
        hidden = stage.embed(torch.tensor(rows))
        hidden = stage.forward(hidden, [Segment(0, start, len(rows))])
        start = len(tokens)
        tokens.append(int(stage.logits(hidden[-1:])[0].argmax()))
    return tokens[len(prompt) :]


def test_two_processes_say_what_one_says(team: tuple[Any, Checkpoint, Team]) -> None:
    """Hidden states to rounding, tokens exactly."""
    model, checkpoint, both = team
    alone = Stage(checkpoint, ROOM)
    assert answered(both, PROMPT, 12) == greedy(model, PROMPT, 12)
    hidden = alone.embed(torch.tensor(PROMPT))
    segments = [Segment(3, 0, 3), Segment(4, 0, 2)]
    expected = alone.forward(hidden, segments)
    assert torch.allclose(both.forward(hidden, segments), expected, atol=1e-4)


def test_what_one_of_them_cannot_load_is_told(
    team: tuple[Any, Checkpoint, Team], tmp_path: Path
) -> None:
    """An adapter of another model; the team goes on."""
    model, _, both = team
    with pytest.raises(ConfigurationError, match="there is no adapter in"):
        both.ask("load", 4, tmp_path)
    with pytest.raises(ConfigurationError, match="there is no adapter in"):
        both.adapters.load(4, tmp_path)
    both.adapters.unload(4)
    assert both.adapters.numbers == [] and both.is_whole
    assert answered(both, PROMPT, 3) == greedy(model, PROMPT, 3)


def test_a_team_without_one_is_none(team: tuple[Any, Checkpoint, Team]) -> None:
    """Whoever waits for the sum is told, and a frame after that, too."""
    _, _, both = team
    (other,) = helpers(os.getpid())
    os.kill(other, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(LinkError, match="process of (a|this) stage"):
            both.forward(both.embed(torch.tensor([5])), [Segment(0, 30, 1)])
        assert not both.is_whole


def test_a_server_computes_layers_together(
    nursery: Nursery, model: Path, http: httpx.Client
) -> None:
    """`node --tensor 2`: the same answers; nobody is left in the end."""
    given = "--lanes", "2", "--positions", "512"
    head = nursery.start(
        *("serve", "--model", str(model), "--no-spawn", "--port", "0", *given),
        BUTTERFLY_SECRET=SECRET,
        BUTTERFLY_API_KEY=KEY,
    )
    url = head.line("will serve").split()[1].removesuffix("/v1")
    place = head.line("waiting for").split("--join ")[1].strip("`")
    told = "node", "--join", place, "--tensor", "2"
    node = nursery.start(*told, BUTTERFLY_SECRET=SECRET)
    head.line("ready", 300)
    body = {"prompt": "The fox", "max_tokens": 30, "temperature": 0}
    expected = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120) as one:
        found = one.post("/v1/completions", json=body).json()
    assert found["choices"][0]["text"] == expected
    (part,) = helpers(node.pid)
    assert head.end(signal.SIGINT) == 130 and node.wait() == 0
    until(lambda: not Path(f"/proc/{part}").exists())


def helpers(pid: int) -> list[int]:
    """Return the processes that a node started for parts of its layers."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(word) for task in tasks for word in task.read_text().split()]
    lines = {n: Path(f"/proc/{n}/cmdline").read_text() for n in found}
    return [n for n, line in lines.items() if "spawn_main" in line]


def test_a_node_loads_a_new_team_when_one_is_gone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many processes as it was told of, for measuring, too."""
    asked: list[int] = []

    def made(*_: Any, tensor: int, **__: Any) -> Any:
        asked.append(tensor)
        adapters = SimpleNamespace(numbers=[])
        return SimpleNamespace(is_whole=len(asked) > 1, adapters=adapters)

    monkeypatch.setattr(cluster_node, "stage_of", made)
    agent = cluster_node.NodeAgent(cluster_node.NodeOptions("h", 1, "s", tensor=3))
    role = Role(1, "n", 1, 2, 1, str(model), 0, 4, 2, 64, 8, 8)
    first = agent._stage(role)
    second = agent._stage(role)
    assert second is not first and agent._stage(role) is second and asked == [3, 3]


def test_a_machine_is_measured_as_it_will_compute(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`probe --tensor`, and what a head asks of a node."""
    asked: list[int] = []

    def refused(*_: Any, tensor: int, **__: Any) -> Any:
        asked.append(tensor)
        raise ConfigurationError("not here")

    monkeypatch.setattr(profile, "stage_of", refused)
    assert main(["probe", "--model", str(model), "--tensor", "2"]) == 2
    told = {"key": "k", "model": str(model), "dtype": "float32"}
    machine = {"name": "n", "device": "cpu", "memory": 0, "tensor": 4}
    assert "not here" in answered_by(told, "h", "a", **machine)["error"]
    assert asked == [2, 4]


def test_a_server_starts_nodes_of_several_processes(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve --tensor` is what its nodes are told."""
    told: list[Any] = []

    def children(*given: Any) -> Any:
        told.extend(given)
        raise ConfigurationError("no more of it")

    monkeypatch.setattr(server, "Children", children)
    monkeypatch.setattr("butterfly.cli._leave", int)
    given = "serve", "--model", str(model), "--port", "0", "--tensor", "2"
    assert main(given) == 2
    assert told[told.index("--tensor") + 1] == "2"
