"""A closed loop of requests on a real ring, beside what the planner says of it.

`serve` measures: a `Head` in this process and nodes in processes of their own, joined
by gloo; everything is Butterfly's own but, if the compute is emulated, the layers.
Each client sends its next request when its last one is done. `expected` gives the same
setting to the planner's formula, the *bound*: no frame can go around faster than all
its stages and links take, none can leave faster than the slowest takes; and to its
simulator.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Sequence as Items
from contextlib import aclosing
from dataclasses import dataclass, field

from benchmarks.butterfly.emulation import COSTS, HIDDEN, LAYERS, Costs
from benchmarks.butterfly.fleet import Fleet
from butterfly.cluster.head import Head
from butterfly.cluster.node import BEAT
from butterfly.cluster.options import HeadOptions
from butterfly.communication.codecs import CODECS
from butterfly.partitioning import (
    Chain,
    Cluster,
    Codec,
    Link,
    ModelShape,
    Node,
    Problem,
    Stage,
    Workload,
    simulate,
)
from butterfly.partitioning.planner import described
from butterfly.scheduling import Sequence

LOOPBACK = Link(1e-4, 2e9)
Ranges = Items[tuple[int, int]]


@dataclass(frozen=True)
class Setting:
    """What is served, and how.

    Args:
        ranges: The layers of each stage.
        clients: How many requests at once.
        prompt: Tokens of a prompt.
        answer: Tokens of an answer.
        spread: How far lengths differ: 0.5 means from 0.5 to 1.5 of the average.
        frames: How many frames may be under way; 0 for one a stage.
        chunk: The most prompt tokens in a frame.
        codec: How hidden states travel.
        rings: How many rings of such stages.
    """

    ranges: Ranges
    clients: int
    prompt: int = 4
    answer: int = 64
    spread: float = 0.5
    frames: int = 0
    chunk: int = 256
    codec: str = "f32"
    rings: int = 1

    @property
    def room(self) -> int:
        """How many positions a lane needs."""
        return int((1 + self.spread) * (self.prompt + self.answer)) + 8

    @property
    def flying(self) -> int:
        """How many frames may be under way."""
        return self.frames or len(self.ranges)


@dataclass(frozen=True)
class Served:
    """What was measured.

    Args:
        tokens_per_s: Tokens of answers a second.
        ttft_s: Seconds from a request to its first token, the mean; 0: there was none.
        token_bytes: Bytes on all links for each token of an answer.
        token_cpu_s: CPU seconds of all processes for each token of an answer.
        busy: The share of time that each stage computed.
    """

    tokens_per_s: float
    ttft_s: float
    token_bytes: float
    token_cpu_s: float
    busy: Items[float]


@dataclass
class _Count:
    """What clients saw."""

    tokens: int = 0
    firsts: list[float] = field(default_factory=list)


def _traffic(head: Head) -> tuple[int, float, list[float]]:
    """Return bytes on all links, when that was, and how long stages were busy."""
    told = [member.told for member in head.stages]
    rings = [ring.pump.ring for ring in head.rings]
    size = sum(ring.sent.bytes for ring in rings if ring is not None)
    size += sum(int(t["sent"][1]) for t in told)
    return size, time.perf_counter(), [float(t["busy"]) for t in told]


async def serve(
    fleet: Fleet,
    setting: Setting,
    *,
    model: str = "smollm2",
    is_emulated: bool = True,
    address: str = "127.0.0.1",
    warm: float = 2.0,
    seconds: float = 5.0,
) -> Served:
    """Measure a setting.

    Args:
        fleet: The nodes.
        setting: What to serve.
        model: The model.
        is_emulated: Whether stages sleep instead of computing.
        address: Where the head is.
        warm: Seconds after the first tokens of all before anything is counted.
        seconds: Seconds in which is counted.
    """
    o = setting
    options = HeadOptions(
        model,
        len(o.ranges),
        secrets.token_hex(8),
        address=address,
        lanes=o.clients,
        positions=o.room,
        chunk=o.chunk,
        frames=o.frames,
        codec=o.codec,
        reuse=False,
        speculate=0,
        plan=described(*_problem(o), []),
        replicas=o.rings,
        rebalance=0.0,
    )
    head = Head(options)
    await head.start()
    try:
        for number in range(len(o.ranges) * o.rings):
            told = {"host": address, "port": head.port, "secret": options.secret}
            fleet.join(number, **told, name=f"n{number}", is_emulated=is_emulated)
        for ring in head.rings:
            await ring.is_serving.wait()
        return await _counted(fleet, head, o, warm, seconds)
    finally:
        await head.close()


async def _counted(
    fleet: Fleet, head: Head, setting: Setting, warm: float, seconds: float
) -> Served:
    """Run the clients for a time, and count in the last part of it."""
    count = _Count()
    work = [_client(head, setting, k, count) for k in range(setting.clients)]
    tasks = [asyncio.ensure_future(one) for one in work]
    while len(count.firsts) < setting.clients:  # noqa: ASYNC110 - all are on their way
        await asyncio.sleep(0.05)
    await asyncio.sleep(max(warm, BEAT * 1.5))
    before, then, busy = _traffic(head)
    began, tokens = time.perf_counter(), count.tokens
    used = fleet.cpu() + time.process_time()
    count.firsts.clear()
    await asyncio.sleep(seconds)
    tokens = max(1, count.tokens - tokens)
    rate = tokens / (time.perf_counter() - began)
    used = fleet.cpu() + time.process_time() - used
    after, now, later = _traffic(head)
    for task in tasks:
        task.cancel()
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(told, asyncio.CancelledError):
            raise told if isinstance(told, BaseException) else AssertionError(told)
    first = sum(count.firsts) / max(1, len(count.firsts))
    shares = [(b - a) / (now - then) for a, b in zip(busy, later, strict=True)]
    size = (after - before) / (now - then) / rate
    return Served(rate, first, size, used / tokens, shares)


async def _client(head: Head, setting: Setting, number: int, count: _Count) -> None:
    """Send requests, one after the other; the first one is partly done already."""
    chance = random.Random(number)
    part = chance.random()
    while True:
        low, wide = 1 - setting.spread, 2 * setting.spread
        prompt = max(1, round(setting.prompt * (low + wide * chance.random())))
        answer = max(1, round(setting.answer * part * (low + wide * chance.random())))
        part, began, first = 1.0, time.perf_counter(), True
        tokens = [chance.randrange(100, 10_000) for _ in range(prompt)]
        async with aclosing(head.generate(Sequence(tokens, answer))) as answers:
            async for token in answers:
                if token.drawn.token is None:
                    continue
                count.tokens += 1
                if first:
                    count.firsts.append(time.perf_counter() - began)
                first = False


def expected(
    setting: Setting,
    *,
    costs: Costs = COSTS,
    link: Link = LOOPBACK,
    is_head_apart: bool = True,
) -> tuple[float, float]:
    """Return the bound of a setting, and what the simulator says, in tokens a second.

    Args:
        setting: What is served.
        costs: What frames take.
        link: The link of each pair of machines.
        is_head_apart: Whether the head is a link away from the first stage.
    """
    problem, chains = _problem(setting, costs, link, is_head_apart)
    said = simulate(problem, chains, rounds=20.0)
    return sum(map(problem.tokens_per_s, chains)), said.tokens_per_s


def _problem(
    setting: Setting,
    costs: Costs = COSTS,
    link: Link = LOOPBACK,
    is_head_apart: bool = True,
) -> tuple[Problem, list[Chain]]:
    """Return a setting as the planner knows it."""
    o, count = setting, len(setting.ranges)
    numbers = range(count * o.rings)
    nodes = [Node(f"n{k}", 1e12, costs.layer, costs.head) for k in numbers]
    head = "head" if is_head_apart else None
    model = ModelShape.uniform(
        "smollm2", hidden=HIDDEN, layers=LAYERS, weight_bytes=1.4e7, kv_token_bytes=1536
    )
    work = Workload(o.clients, o.prompt, o.answer, spread=o.spread)
    cluster = Cluster(tuple(nodes), default_link=link, head=head)
    problem = Problem(cluster, model, work, (_codec(o.codec),))
    lanes = -(-o.clients // o.rings)
    used = lanes, -(-lanes // o.flying), o.chunk, o.flying
    chains = []
    for first in numbers[::count]:
        each = enumerate(o.ranges, first)
        stages = tuple([Stage(f"n{k}", a, b - 1) for k, (a, b) in each])
        chains.append(Chain(stages, (o.codec,) * (count - 1), *used))
    return problem, chains


def _codec(name: str) -> Codec:
    """Return a wire format as the planner knows it, with the bytes that it writes."""
    (found,) = [codec for codec in CODECS if codec.name == name]
    return Codec(name, found.row_bytes(HIDDEN) / HIDDEN)
