"""Plans at work: who becomes which stage, and what travels in a frame."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.distributed as dist  # noqa: E402
from tests.butterfly.models import greedy, tiny  # noqa: E402
from tests.butterfly.server_helpers import until  # noqa: E402

from butterfly.api.state import state_of  # noqa: E402
from butterfly.cluster.epochs import READY  # noqa: E402
from butterfly.cluster.head import Head  # noqa: E402
from butterfly.cluster.members import Member  # noqa: E402
from butterfly.cluster.node import NodeAgent, NodeOptions  # noqa: E402
from butterfly.cluster.options import HeadOptions  # noqa: E402
from butterfly.cluster.roles import Role  # noqa: E402
from butterfly.communication.codecs import Int8  # noqa: E402
from butterfly.communication.control import Connection  # noqa: E402
from butterfly.communication.frames import Frame, Kind  # noqa: E402
from butterfly.errors import (  # noqa: E402
    ClusterError,
    ConfigurationError,
    LinkError,
    RequestError,
)
from butterfly.partitioning import (  # noqa: E402
    CODECS,
    Chain,
    Cluster,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Plan,
    Problem,
    Stage,
    described,
)
from butterfly.partitioning.loss import Loss  # noqa: E402
from butterfly.scheduling import Sequence as Asked  # noqa: E402

T = TypeVar("T")
PROMPTS = [[31, 6], *[[(7 * k + 13 * n) % 512 for n in range(12)] for k in (1, 2, 3)]]
CONNECTION = Connection.__new__(Connection)  # nothing is sent over it
COUNT = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return tmp_path_factory.mktemp("planned")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> list[list[int]]:
    """What the whole model says."""
    torch.set_num_threads(1)
    whole = tiny(folder, "qwen2", eos_token_id=None, vocab_size=512)
    return [greedy(whole, prompt, COUNT) for prompt in PROMPTS]


def plan_of(*stages: tuple[str, int, int], codecs: Sequence[str] = ()) -> Plan:
    """Return a plan: four lanes, one frame of two rows and three prompt tokens."""
    time = LayerTime(1e-3, 1e-5, 1e-5)
    cluster = Cluster(
        tuple([Node(name, 1e9, time) for name, _, _ in stages]),
        default_link=Link(1e-3, 1e8),
    )
    last = max(end for _, _, end in stages)
    model = ModelShape.uniform(
        "tiny", hidden=32, layers=last + 1, weight_bytes=1e4, kv_token_bytes=64
    )
    hops = tuple(codecs) or ("f32",) * (len(stages) - 1)
    chain = Chain(tuple([Stage(*one) for one in stages]), hops, 4, 2, 3, 1)
    problem = Problem(cluster, model, codecs=tuple(CODECS.values()))
    return described(problem, [chain], [])


UNEVEN = plan_of(("b", 0, 0), ("a", 1, 3))


def told(folder: Path, plan: Plan | None = None, **more: Any) -> HeadOptions:
    """Return what a head is told."""
    given: dict[str, Any] = {"stages": 2, "lanes": 4, "positions": 64, **more}
    return HeadOptions(str(folder), secret="s", plan=plan, **given)


class Nodes:
    """Nodes in this process; `s` has no memory, `x` cannot measure, `m` is mute."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.agents: dict[str, NodeAgent] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.measured: list[str] = []

    def start(self, *names: str) -> None:
        """Let nodes of some names come."""
        for name in names:
            small = 1000 if name == "s" else 0
            place = "127.0.0.1", self.head.port, "s"
            options = NodeOptions(*place, name=name, memory=small)
            self.agents[name] = agent = NodeAgent(options)
            agent._measure = self._noted(name, agent._measure)
            self.tasks[name] = asyncio.ensure_future(agent.run())

    def _noted(self, name: str, measure: Callable[..., None]) -> Callable[..., None]:
        """Return a way to measure that takes note of it."""

        def noted(message: dict[str, Any]) -> None:
            self.measured.append(name)
            if name == "m":
                return
            if name == "x":
                answer = {"event": "measured", "key": message["key"], "error": "ill"}
                self.agents[name]._tell(answer)
            else:
                measure(message)

        return noted

    async def end(self, *names: str) -> None:
        """Let nodes die."""
        for name in names:
            self.tasks[name].cancel()
            await asyncio.wait([self.tasks.pop(name)])

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is true of the cluster."""
        await asyncio.to_thread(until, what)


def run(
    options: HeadOptions, names: str, work: Callable[[Head, Nodes], Awaitable[T]]
) -> T:
    """Do something with a head and nodes of some names."""

    async def whole() -> T:
        head = Head(options)
        await head.start()
        nodes = Nodes(head)
        nodes.start(*names)
        try:
            return await work(head, nodes)
        finally:
            for each in head.rings:
                each._is_closing = True
                ring = each.pump.end()
                if ring is not None:  # the threads of this process leave the ring
                    ring.send(Frame(each.epoch, 0, (), Kind.END, b""))
            await head.close()
            await asyncio.wait(nodes.tasks.values(), timeout=10)

    return asyncio.run(whole())


async def answers(head: Head) -> list[list[int]]:
    """Return what the cluster says; all but the first prompt come a token later."""
    begun = asyncio.Event()

    async def one(prompt: list[int]) -> list[int]:
        sequence = Asked(list(prompt), COUNT)
        async for _ in head.generate(sequence):
            begun.set()
        return sequence.output

    async with asyncio.timeout(60):
        first = asyncio.ensure_future(one(PROMPTS[0]))
        await begun.wait()
        others = await asyncio.gather(*[one(prompt) for prompt in PROMPTS[1:]])
        return [await first, *others]


def watched(agent: NodeAgent) -> list[Frame]:
    """Return a list that grows by each frame that comes to a node."""
    worker, seen = agent._worker, list[Frame]()
    assert worker is not None
    step = worker.step

    def noted(frame: Frame) -> Any:
        seen.append(replace(frame, payload=bytes(frame.payload)))
        return step(frame)

    worker.step = noted  # type: ignore[method-assign]
    return seen


def rule_of(head: Head) -> str:
    """What shared the layers of the present epoch out; from any thread."""
    return head.rings[0].planning.current.rule if head.rings[0].planning.current else ""


def ranges(head: Head) -> list[tuple[str, int, int, str]]:
    """Return who has which layers, and how it sends."""
    return [(s.node, s.first, s.last, s.codec) for s in state_of(head).stages]


@pytest.mark.parametrize(("codec", "size"), [("f32", 4), ("f16", 2)])
def test_a_plan_is_served_as_it_stands(
    folder: Path, oracle: list[list[int]], codec: str, size: int
) -> None:
    """Order, ranges, codec, rows and parts of prompts, seen at the last stage."""
    plan = plan_of(("b", 0, 0), ("a", 1, 3), codecs=[codec])

    async def work(head: Head, nodes: Nodes) -> list[Frame]:
        await head.ready(60)
        assert [one[:3] for one in ranges(head)] == [("b", 0, 1), ("a", 1, 4)]
        assert ranges(head)[0][3] == codec
        assert (state_of(head).split, head.scheduler.frames) == ("plan", 1)
        await nodes.until(lambda: nodes.agents["a"]._worker is not None)
        seen = watched(nodes.agents["a"])
        said = await answers(head)
        assert said == oracle or codec != "f32"
        return seen

    seen = run(told(folder, plan), "acb", work)
    assert all(len(frame.payload) == frame.rows * 32 * size for frame in seen)
    counts = [counted(frame) for frame in seen]
    assert max(rows for rows, _ in counts) == 2
    assert max(tokens for rows, tokens in counts if rows) == 3


def test_a_codec_is_used_within_its_budget_only(
    folder: Path, oracle: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head measures what no plan tells; a bad one is refused before any node."""

    async def work(head: Head, nodes: Nodes) -> int:
        await head.ready(60)
        assert ranges(head)[0][3] == "int8"
        return sum(map(len, await answers(head)))

    assert run(told(folder, codec="int8"), "ab", work) == COUNT * len(PROMPTS)
    decode = Int8.decode
    bad = lambda self, *given: -decode(self, *given)  # noqa: E731
    monkeypatch.setattr(Int8, "decode", bad)
    with pytest.raises(ConfigurationError, match="int8 on 1 link changes"):
        Head(told(folder, codec="int8"))
    plan = plan_of(("b", 0, 0), ("a", 1, 3), codecs=["int8"])
    with pytest.raises(ConfigurationError, match="the budget is 0.01 nats and 97"):
        Head(told(folder, plan))
    Head(told(folder, replace(plan, losses=(Loss("int8", 1, 1e-4, 1.0),))))
    worse = replace(plan, losses=(Loss("int8", 1, 1e-4, 0.96),))
    with pytest.raises(ConfigurationError, match="keeps 96.0% of the likeliest"):
        Head(told(folder, worse))


def counted(frame: Frame) -> tuple[int, int]:
    """Return how many sequences decode in a frame, and its rows of prompts."""
    own = [s.start >= len(PROMPTS[min(s.lane, 1)]) for s in frame.segments]
    return sum(own), sum(
        s.length for s, is_own in zip(frame.segments, own, strict=True) if not is_own
    )


def test_what_the_head_is_told_goes_before_the_plan(
    folder: Path, oracle: list[list[int]]
) -> None:
    """Rows, parts of prompts and frames."""

    async def work(head: Head, nodes: Nodes) -> list[Frame]:
        await head.ready(60)
        assert head.scheduler.frames == 2
        await nodes.until(lambda: nodes.agents["a"]._worker is not None)
        seen = watched(nodes.agents["a"])
        assert await answers(head) == oracle
        return seen

    options = told(folder, UNEVEN, rows=1, chunk=5, frames=2)
    counts = [counted(frame) for frame in run(options, "ab", work)]
    assert max(rows for rows, _ in counts) == 1
    assert max(tokens for _, tokens in counts) == 5


def test_after_a_death_and_a_return(folder: Path, oracle: list[list[int]]) -> None:
    """Who is left splits by cost; when all are here again, the plan holds again."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        assert head.scheduler.lanes == 3
        await nodes.end("b")
        await nodes.until(lambda: head.is_serving and len(head.stages) == 1)
        assert state_of(head).split == "balanced"
        nodes.start("b")
        await nodes.until(lambda: head.is_serving and rule_of(head) == "plan")
        assert [one[:3] for one in ranges(head)] == [("b", 0, 1), ("a", 1, 4)]
        assert await answers(head) == oracle

    run(told(folder, UNEVEN, lanes=3), "ab", work)


def test_a_node_that_is_lost_before_its_ring_is_whole(
    folder: Path, oracle: list[list[int]]
) -> None:
    """The next ring does not wait for what still waits for the last one; that ends."""

    async def work(head: Head, nodes: Nodes) -> None:
        nodes.agents["a"]._serve = lambda role, over: None  # type: ignore[method-assign]
        await nodes.until(lambda: nodes.agents["b"]._epoch == 1)
        await asyncio.sleep(0.2)  # both other ranks wait in the store by now
        await nodes.end("a")
        await nodes.until(lambda: head.is_serving)
        assert [one[:3] for one in ranges(head)] == [("b", 0, 4)]
        assert await answers(head) == oracle
        here = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
        await nodes.until(lambda: not {"joining", "epoch-1"} & set(here()))

    run(told(folder), "ab", work)


def test_a_node_waits_for_the_others_as_long_as_the_head(
    folder: Path, oracle: Any
) -> None:
    """They may still load their layers."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        roles = [agent._role for agent in nodes.agents.values() if agent._role]
        assert [role.patience for role in roles] == [READY, READY]

    run(told(folder), "ab", work)
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    place = 1, "x", 1, 3, store.port, str(folder)
    role = Role(*place, 0, 2, lanes=1, positions=8, rows=8, row_bytes=64, patience=0.1)
    agent = NodeAgent(NodeOptions("127.0.0.1", 1, "s"))
    with pytest.raises(LinkError, match="within 0.1 s: without rank 0, 2"):
        agent._serve(role, threading.Event())


def test_nodes_measure_themselves_once(folder: Path, oracle: list[list[int]]) -> None:
    """The planner decides; who is left after a death is not measured again."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        assert state_of(head).split == "measured"
        assert await answers(head) == oracle
        asked = sorted(nodes.measured)
        assert asked == ["a"] * 3 + ["b"] * 3  # itself, the other one, the head
        first = head.stages[0].name
        await nodes.end(first)
        await nodes.until(lambda: head.is_serving and len(head.members) == 1)
        assert sorted(nodes.measured) == asked
        assert state_of(head).split == "measured"
        assert await answers(head) == oracle

    run(told(folder, split="measured"), "ab", work)


def test_a_node_that_leaves_while_it_is_measured(
    folder: Path, oracle: list[list[int]]
) -> None:
    """The others serve on, and the next one that comes is taken."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        await nodes.end("b")
        await nodes.until(lambda: head.is_serving and len(head.members) == 1)
        epoch = head.epoch
        nodes.start("m")
        await nodes.until(lambda: "m" in nodes.measured)
        await nodes.end("m")
        assert await answers(head) == oracle and head.epoch == epoch
        nodes.start("c")
        await nodes.until(lambda: head.is_serving and head.epoch > epoch)
        assert head.rings[0].planning.current is not None
        assert len(head.rings[0].planning.current.considered) == 2
        assert await answers(head) == oracle

    run(told(folder, split="measured"), "ab", work)


@pytest.mark.parametrize(
    ("names", "said"),
    [("x", "x could not measure: ill"), ("s", "does not fit: its weights take")],
)
def test_what_cannot_be_planned_is_split_by_cost(
    folder: Path,
    oracle: list[list[int]],
    names: str,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says why."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        assert state_of(head).split == "balanced"
        assert await answers(head) == oracle

    run(told(folder, split="measured", stages=1), names, work)
    assert "layers are split by cost, since" in caplog.text and said in caplog.text


def test_even_counts_layers_and_balanced_prices_the_head(
    folder: Path, oracle: Any
) -> None:
    """No node is measured for that."""
    found = {}
    for split in ("even", "balanced"):
        head = Head(told(folder, split=split))
        head.rings[0].members.extend([Member(CONNECTION, name, {}) for name in "aa"])
        one = asyncio.run(head.rings[0].planning.split(head.rings[0]))
        found[split] = [(s.node, s.first, s.last) for s in one.chain.stages]
        assert one.members == tuple(head.rings[0].members)
    assert found == {
        "even": [("a", 0, 1), ("a-2", 2, 3)],
        "balanced": [("a", 0, 2), ("a-2", 3, 3)],
    }


@pytest.mark.parametrize(
    ("plan", "more", "said"),
    [
        (plan_of(("a", 0, 1), ("b", 2, 5)), {}, "for the 6 layers of 'tiny', and the"),
        (UNEVEN, {"stages": 3}, "the plan has 2 stages, and 3 were asked for"),
        (
            replace(UNEVEN, chains=UNEVEN.chains * 2),
            {},
            "has 2 chains, and 1 rings",
        ),
        (None, {"split": "odd"}, "no split 'odd': there are balanced, even, measured"),
        (None, {"stages": 5}, "the model has 4 layers: 5 --stages are too many"),
        (None, {"codec": "zip"}, "unknown codec 'zip'"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(
    folder: Path, oracle: Any, plan: Plan | None, more: dict[str, Any], said: str
) -> None:
    """Before any node is asked."""
    with pytest.raises(ConfigurationError, match=said):
        Head(told(folder, plan, **more))


def test_a_node_that_has_not_joined_is_named(folder: Path, oracle: Any) -> None:
    """Others are no replacement at first; what is no Unicode in names is left out."""

    async def work(head: Head, nodes: Nodes) -> None:
        await nodes.until(lambda: len(head.members) == 2)
        with pytest.raises(ClusterError, match=r"names b, and there is a, \?:"):
            await head.ready(0.01)
        assert head.epoch == 0

    run(told(folder, UNEVEN), "a\udcff", work)


@pytest.mark.parametrize("breaks", [False, True])
def test_new_ranges_are_loaded_while_the_old_ones_serve(
    folder: Path, oracle: list[list[int]], breaks: bool
) -> None:
    """When a stage turns out to be slow; without room for both, in the pause."""

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        slow, quick = head.stages
        agents = [nodes.agents[slow.name], nodes.agents[quick.name]]
        agents[1].options = replace(agents[1].options, memory=1000)
        if breaks:  # it finds out while it loads
            agents[1]._has_room = lambda role: bool(1 // 0)  # type: ignore[method-assign]
        await nodes.until(lambda: all(agent._present for agent in agents))
        loads = [loaded(agent, head) for agent in agents]
        present = [agent._present for agent in agents]
        slow.speed, quick.speed = 0.1, 1.9
        head.rings[0]._is_uneven = True
        head.rings[0].stir()
        await nodes.until(lambda: head.is_serving and head.epoch == 2)
        assert loads == [[(0, 1, True)], [(1, 4, False)]]
        await nodes.until(lambda: all(agent._present for agent in agents))
        for agent, stage in zip(agents, present, strict=True):
            assert stage not in agent._stages.values()
        assert await answers(head) == oracle

    run(told(folder), "ab", work)


def loaded(agent: NodeAgent, head: Head) -> list[tuple[int, int, bool]]:
    """Return a list that grows by what a node loads, and whether the ring served."""
    found: list[tuple[int, int, bool]] = []
    stage_of = agent._stage

    def noted(role: Role) -> Any:
        before, is_serving = list(agent._stages.values()), head.is_serving
        stage = stage_of(role)
        if stage not in before:
            found.append((role.first, role.last, is_serving))
        return stage

    agent._stage = noted  # type: ignore[method-assign]
    return found


def test_an_adapter_is_not_waited_for_when_the_stages_are_gone(
    folder: Path, oracle: list[list[int]], tmp_path: Path
) -> None:
    """Its client is told to try again; the next epoch begins, and serves."""
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), "utf-8")

    async def work(head: Head, nodes: Nodes) -> None:
        await head.ready(60)
        await nodes.until(lambda: nodes.agents["a"]._present is not None)
        nodes.agents["a"]._adapt = lambda message: None  # type: ignore[method-assign]
        load = asyncio.ensure_future(head.load_adapter("one", str(tmp_path)))
        await asyncio.sleep(0)
        await nodes.end("a")
        with pytest.raises(ClusterError, match="stages changed while the adapter 'one"):
            await asyncio.wait_for(load, 20)
        nodes.start("b")
        await nodes.until(lambda: head.is_serving and head.epoch > 1)
        with pytest.raises(ConfigurationError, match="safetensors cannot be read"):
            await asyncio.wait_for(head.load_adapter("one", str(tmp_path)), 20)
        with pytest.raises(RequestError, match="was unloaded"):
            head.generate(Asked([1], 1, adapter=7))
        assert await answers(head) == oracle

    run(told(folder, stages=1), "a", work)


class _Broken:
    """A ring that nothing comes back from."""

    def abort(self) -> None:
        """Leave it."""


def test_a_frame_that_breaks_every_epoch_is_given_up(folder: Path, oracle: Any) -> None:
    """Its clients are told why, after five epochs without any result."""

    async def main() -> None:
        head = Head(told(folder))
        epochs, pump = head.rings[0], head.rings[0].pump
        asked = asyncio.ensure_future(anext(head.generate(Asked([1, 2], COUNT))))
        for round_ in range(9):
            await asyncio.sleep(0)
            assert not asked.done()
            if round_ == 4:  # a result: it is counted anew
                epochs._measured([0.1])
            pump.ring = _Broken()  # ty: ignore[invalid-assignment]
            epochs.broke(epochs.epoch, "a: it cannot be computed")
        with pytest.raises(ClusterError, match="no frame came back, at last: a: it ca"):
            await asked

    asyncio.run(main())
