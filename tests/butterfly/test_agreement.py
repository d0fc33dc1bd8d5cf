"""The scheduler on emulated stages in virtual time, beside what the simulator says."""

import heapq
import random
from itertools import count

import pytest

pytest.importorskip("numpy")

from butterfly.partitioning import (  # noqa: E402
    Chain,
    Cluster,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Problem,
    Stage,
    Workload,
    simulate,
)
from butterfly.partitioning.simulator import _ring  # noqa: E402
from butterfly.scheduling import Batch, Scheduler, Sequence  # noqa: E402

LAYER, HEAD = LayerTime(2.7e-3, 1.5e-4, 1e-4), LayerTime(20e-3, 9e-4, 0.0)
CUTS = {2: (0, 19, 30), 3: (0, 13, 25, 30)}  # of equal cost, the head included
NEAR, FAR = Link(2e-3, 1.25e8), Link(4e-2, 1.25e7)


def placed(
    stages: int, load: Workload, frames: int, chunk: int, link: Link
) -> tuple[Problem, Chain]:
    """Return a model of 30 layers on some equal nodes, the head on the first."""
    nodes = tuple([Node(f"n{k}", 1e12, LAYER, HEAD) for k in range(stages)])
    sizes = {"hidden": 576, "layers": 30, "weight_bytes": 1e7, "kv_token_bytes": 1536}
    model = ModelShape.uniform("m", **sizes)
    cuts = CUTS[stages]
    pairs = enumerate(zip(cuts, cuts[1:], strict=False))
    ranges = tuple([Stage(f"n{k}", a, b - 1) for k, (a, b) in pairs])
    rows = -(-load.requests // frames)
    codecs = ("f32",) * (stages - 1)
    chain = Chain(ranges, codecs, load.requests, rows, chunk, in_flight=frames)
    return Problem(Cluster(nodes, default_link=link), model, load), chain


def served(problem: Problem, chain: Chain, seconds: float = 40.0) -> float:
    """Return the tokens a second that the scheduler serves, without the beginning."""
    load, lengths = problem.workload, random.Random(0)
    size = load.prompt_tokens + load.output_tokens
    scheduler = Scheduler(
        *(chain.lanes, int(2 * size) + 8),
        frames=chain.frames,
        cap=chain.micro_batch,
        chunk=chain.chunk,
        beside=chain.chunk,
        reuse=False,
    )
    way, now, tokens, numbers = _ring(problem, chain).way, 0.0, 0, count()
    events: list[tuple[float, int, Batch]] = []

    def ask(part: float = 1.0) -> None:
        low, wide = 1 - load.spread, 2 * load.spread
        prompt = max(1, round(load.prompt_tokens * (low + wide * lengths.random())))
        answer = load.output_tokens * part * (low + wide * lengths.random())
        first = next(numbers)
        scheduler.add(Sequence([first] * prompt, max(1, round(answer))))

    def send() -> None:
        while (batch := scheduler.plan()) is not None:
            rows = sum(s.length == 1 for s in batch.segments)
            samples = sum(s.is_sampled for s in batch.segments)
            then = now
            for server in way:
                then = server.serve(then, rows, len(batch.tokens) - rows, samples)
            heapq.heappush(events, (then, next(numbers), batch))

    for _ in range(load.requests):
        ask(lengths.random())
        send()  # they come one by one
    while now < seconds:
        send()
        now, _, batch = heapq.heappop(events)
        drawn = {s.lane: [7] for s in batch.segments if s.is_sampled}
        scheduler.settle(batch.step, drawn)
        tokens += len(drawn) * (now > seconds / 3)
        for _ in [s for s in batch.sequences if s.finish]:
            ask()
    return tokens / (now - seconds / 3)


@pytest.mark.parametrize("link", [NEAR, FAR])
@pytest.mark.parametrize(
    ("stages", "load", "frames", "chunk"),
    [
        (2, Workload(8, 4, 64), 2, 256),
        (3, Workload(8, 4, 64), 3, 256),
        (3, Workload(8, 4, 64), 6, 256),
        (3, Workload(12, 4, 64), 5, 256),
        (3, Workload(12, 256, 32), 3, 64),
        (3, Workload(8, 128, 64), 6, 64),
    ],
)
def test_the_scheduler_serves_what_the_simulator_says(
    stages: int, load: Workload, frames: int, chunk: int, link: Link
) -> None:
    """Within a fifth; also with more frames than stages."""
    problem, chain = placed(stages, load, frames, chunk, link)
    said = simulate(problem, [chain], rounds=5.0).tokens_per_s
    assert 0.8 < served(problem, chain) / said < 1.2
