"""Closed-loop serving on chains, event by event: the judge of throughput.

Formulas know averages; this knows that prompts come in chunks, that frames wait for
each other, that rows which missed a frame wait for the next and that lengths differ.

What the head does here is what the scheduler does: a sequence has a KV lane from its
prompt to its last token; a frame takes the decoding rows that wait, at most
`Chain.micro_batch` of them, and a piece of the prompts; it leaves just in time for
the first stage and only while fewer than `Chain.frames` are under way. Without that
cap the rows that wait for a slow frame join and go on as a convoy, one stage busy at
a time.

Frames cannot overtake each other on a chain, so the way of a frame is known when it
leaves, each stage and link being free from some time on; only its return is an event.
Chains may share nodes (others place so; `partition` does not): then frames meet, and
each arrival is an event.
What this does not know: memory that runs out, lost frames, other users of a link.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from butterfly.errors import PlanError
from butterfly.partitioning.chain import Chain
from butterfly.partitioning.cluster import Link
from butterfly.partitioning.problem import (
    FRAME_BYTES,
    ID_BYTES,
    SEGMENT_BYTES,
    Problem,
)

STEPS_AT_MOST = 2_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation measured, after warming up.

    Args:
        tokens_per_s: Output tokens a second.
        ttft_s: Seconds from sending a request to its first token, on average.
        token_s: Seconds between two tokens of a sequence, on average.
        running: Sequences with a lane, on average.
        waiting: Requests without a lane, on average.
        frame_rows: Decoding rows of a frame that has any, on average.
        busy: The share of time that each node and each link ("a>b") is busy.
        seconds: The time measured.
        requests: The requests finished in it.
    """

    tokens_per_s: float
    ttft_s: float
    token_s: float
    running: float
    waiting: float
    frame_rows: float
    busy: dict[str, float]
    seconds: float
    requests: int


@dataclass(slots=True)
class _Sequence:
    """One request on its way."""

    prompt: int
    left: int
    sent_s: float
    token_at: float = 0.0


@dataclass(slots=True)
class _Frame:
    """What travels: decoding sequences, and those whose prompt ends in it."""

    rows: list[_Sequence]
    ended: list[_Sequence]
    tokens: int


@dataclass(slots=True)
class _Machine:
    """A node or a link: until when it is taken, and how long it was."""

    free_at: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True)
class _Server:
    """A stage or link: its time is linear in rows, prompt tokens, samples."""

    name: str
    fixed_s: float
    row_s: float
    token_s: float
    delay_s: float = 0.0
    head_fixed_s: float = 0.0
    head_row_s: float = 0.0
    machine: _Machine = field(default_factory=_Machine)

    def serve(self, now: float, rows: int, tokens: int, samples: int) -> float:
        """Return when a frame that comes now has been served."""
        took = self.fixed_s + self.row_s * rows + self.token_s * tokens
        if samples:
            took += self.head_fixed_s + self.head_row_s * samples
        machine = self.machine
        machine.free_at = max(machine.free_at, now) + took
        machine.busy_s += took
        return machine.free_at + self.delay_s


@dataclass(slots=True)
class _Ring:
    """A chain at work."""

    chain: Chain
    way: list[_Server]
    entry_s: float
    ready: deque[_Sequence] = field(default_factory=deque)
    prompts: deque[_Sequence] = field(default_factory=deque)
    running: int = 0
    frames: int = 0
    waking_at: float = math.inf
    weight: float = 1.0

    @property
    def gate(self) -> _Server:
        """The first stage."""
        return next(server for server in self.way if ">" not in server.name)


def simulate(
    problem: Problem,
    chains: Sequence[Chain],
    *,
    seed: int = 0,
    rounds: float = 2.0,
) -> Outcome:
    """Serve a closed loop of requests on chains.

    A new request goes to the chain with a free lane that is least loaded for what it
    can do; if all lanes are taken it waits.

    Args:
        problem: The machines, the model and the requests.
        chains: The placement.
        seed: Of the lengths.
        rounds: How many requests each client finishes while measured, on average.

    Raises:
        InfeasibleError: A node has not the memory for its stages and lanes.
        PlanError: There is no chain.
    """
    if not chains:
        raise PlanError("there is no chain to simulate: give at least one")
    problem.verify_all([(chain.stages, chain.lanes) for chain in chains])
    return _Simulation(problem, chains, seed).run(rounds)


class _Simulation:
    """The state of one simulation."""

    def __init__(self, problem: Problem, chains: Sequence[Chain], seed: int) -> None:
        self.problem = problem
        self.random = random.Random(seed)
        self.rings = [_ring(problem, chain) for chain in chains]
        self.machines: dict[str, _Machine] = {}
        for ring in self.rings:
            for server in ring.way:
                server.machine = self.machines.setdefault(server.name, server.machine)
        names = [name for chain in chains for name in chain.nodes]
        self.shared = len(set(names)) < len(names)
        self.numbers = count()
        self.events: list[tuple[float, int, _Ring, _Frame | None, int]] = []
        self.queue: deque[_Sequence] = deque()
        self.now = 0.0
        self.done = 0
        self.clear()

    def clear(self) -> None:
        """Begin to measure."""
        self.began = self.now
        self.tokens = self.first_tokens = self.gaps = 0
        self.ttft = self.gap = self.lane_time = self.wait_time = 0.0
        self.row_frames = self.row_count = 0
        for machine in self.machines.values():
            machine.busy_s = max(0.0, machine.free_at - self.now)

    def run(self, rounds: float) -> Outcome:
        """Warm up, measure, tell."""
        clients = self.problem.workload.requests
        for _ in range(clients):
            self.queue.append(self._request(self.random.random()))
        self._admit()
        self._until(clients)
        self.clear()
        before = self.done
        self._until(before + max(int(rounds * clients), 24))
        return self._outcome(self.done - before)

    def _request(self, part: float = 1.0) -> _Sequence:
        """Return a new request, or what is left of one."""
        work = self.problem.workload
        low = 1 - work.spread
        prompt = work.prompt_tokens * (low + 2 * work.spread * self.random.random())
        answer = work.output_tokens * (low + 2 * work.spread * self.random.random())
        return _Sequence(max(1, round(prompt)), max(1, round(answer * part)), self.now)

    def _admit(self) -> None:
        """Give lanes to those who wait."""
        while self.queue:
            free = [ring for ring in self.rings if ring.running < ring.chain.lanes]
            if not free:
                return
            ring = min(free, key=lambda ring: (ring.running + 1) / ring.weight)
            ring.running += 1
            ring.prompts.append(self.queue.popleft())
            self._emit(ring)

    def _until(self, done: int) -> None:
        """Go on until so many requests are done."""
        steps = 0
        while self.done < done:
            then, _, ring, frame, hop = heapq.heappop(self.events)
            running = sum(r.running for r in self.rings)
            self.lane_time += running * (then - self.now)
            self.wait_time += len(self.queue) * (then - self.now)
            self.now = then
            if frame is None:
                ring.waking_at = math.inf
            elif hop < len(ring.way):
                self._travel(ring, frame, hop)
            else:
                self._returned(ring, frame)
            self._emit(ring)
            steps += 1
            if steps > STEPS_AT_MOST:
                raise PlanError(
                    f"the simulation takes over {STEPS_AT_MOST} frames: give fewer "
                    "requests or shorter answers"
                )

    def _emit(self, ring: _Ring) -> None:
        """Send frames while there is something to send and the ring has room."""
        gate = ring.way[0] if ring.entry_s == 0 else ring.gate
        while ring.frames < ring.chain.frames and (ring.ready or ring.prompts):
            leaves = gate.machine.free_at - ring.entry_s
            if leaves > self.now + 1e-12:
                if leaves < ring.waking_at:
                    ring.waking_at = leaves
                    self._schedule(leaves, ring, None)
                return
            self._send(ring, self._compose(ring))

    def _schedule(
        self, then: float, ring: _Ring, frame: _Frame | None, hop: int = 0
    ) -> None:
        """Put an event into the queue."""
        heapq.heappush(self.events, (then, next(self.numbers), ring, frame, hop))

    def _compose(self, ring: _Ring) -> _Frame:
        """Return the next frame: rows that wait, and a piece of the prompts."""
        size = min(len(ring.ready), ring.chain.micro_batch)
        frame = _Frame([ring.ready.popleft() for _ in range(size)], [], 0)
        room = ring.chain.chunk
        while ring.prompts and frame.tokens < room:
            sequence = ring.prompts[0]
            piece = min(sequence.prompt, room - frame.tokens)
            sequence.prompt -= piece
            frame.tokens += piece
            if not sequence.prompt:
                frame.ended.append(ring.prompts.popleft())
        return frame

    def _send(self, ring: _Ring, frame: _Frame) -> None:
        """Send a frame around."""
        ring.frames += 1
        if frame.rows:
            self.row_frames += 1
            self.row_count += len(frame.rows)
        self._travel(ring, frame, 0)

    def _travel(self, ring: _Ring, frame: _Frame, hop: int) -> None:
        """Serve a frame: all the way, or one hop where others may come between."""
        rows, then = len(frame.rows), self.now
        samples = rows + len(frame.ended)
        end = hop + 1 if self.shared else len(ring.way)
        for server in ring.way[hop:end]:
            then = server.serve(then, rows, frame.tokens, samples)
        self._schedule(then, ring, frame, end)

    def _returned(self, ring: _Ring, frame: _Frame) -> None:
        """Take the tokens of a frame that has come back."""
        ring.frames -= 1
        for sequence in frame.ended:
            self.ttft += self.now - sequence.sent_s
            self.first_tokens += 1
        for sequence in frame.rows:
            self.gap += self.now - sequence.token_at
            self.gaps += 1
        for sequence in (*frame.rows, *frame.ended):
            self.tokens += 1
            sequence.token_at = self.now
            sequence.left -= 1
            if sequence.left:
                ring.ready.append(sequence)
            else:
                self.done += 1
                ring.running -= 1
                self.queue.append(self._request())
        self._admit()

    def _outcome(self, requests: int) -> Outcome:
        """Return what was measured."""
        seconds = self.now - self.began
        busy = {}
        for name, machine in self.machines.items():
            over = max(0.0, machine.free_at - self.now)
            busy[name] = max(0.0, machine.busy_s - over) / seconds
        return Outcome(
            tokens_per_s=self.tokens / seconds,
            ttft_s=self.ttft / max(1, self.first_tokens),
            token_s=self.gap / max(1, self.gaps),
            running=self.lane_time / seconds,
            waiting=self.wait_time / seconds,
            frame_rows=self.row_count / max(1, self.row_frames),
            busy=busy,
            seconds=seconds,
            requests=requests,
        )


def _ring(problem: Problem, chain: Chain) -> _Ring:
    """Return a chain as servers: from the head around and back to it."""
    names, head = chain.nodes, problem.cluster.head
    codecs = {codec.name: codec for codec in problem.codecs}
    link = problem.cluster.link
    stages = [_stage(problem, chain, i) for i in range(len(names))]
    way = [stages[0]]
    for i, name in enumerate(chain.codecs):
        source, target = names[i], names[i + 1]
        codec = codecs[name]
        row = codec.size(problem.model.hidden, 1)
        encode = codec.row_s
        hop = _hop(source, target, link(source, target), row, encode)
        way += [hop, stages[i + 1]]
    places = [names[-1], names[0]] if head is None else [names[-1], head]
    if places[0] != places[1]:
        way.append(_hop(*places, link(*places), ID_BYTES, 0.0))
    entry = 0.0
    if head is not None and head != names[0]:
        hop = _hop(head, names[0], link(head, names[0]), ID_BYTES, 0.0)
        way.insert(0, hop)
        entry = hop.delay_s + hop.fixed_s + hop.row_s * chain.micro_batch
    return _Ring(chain, way, entry, weight=problem.tokens_per_s(chain))


def _stage(problem: Problem, chain: Chain, index: int) -> _Server:
    """Return a stage as a server."""
    stage = chain.stages[index]
    node = problem.cluster.node(stage.node)
    layers = problem.model.layers[stage.first : stage.last + 1]
    cost, time = sum(layer.cost for layer in layers), node.layer
    server = _Server(
        stage.node, cost * time.fixed_s, cost * time.row_s, cost * time.token_s
    )
    if index == len(chain.stages) - 1:
        head = problem.head_time(node)
        server.head_fixed_s, server.head_row_s = head.fixed_s, head.row_s
    return server


def _hop(
    source: str, target: str, link: Link, row_bytes: float, encode_s: float
) -> _Server:
    """Return a link as a server."""
    speed = link.bytes_per_s
    token_s = row_bytes / speed + encode_s
    return _Server(
        f"{source}>{target}",
        FRAME_BYTES / speed,
        token_s + SEGMENT_BYTES / speed,
        token_s,
        link.round_trip_s / 2,
    )
