"""`Metrics`: what Prometheus reads.

Counts of tokens and requests are kept here; what the cluster is like is asked for when
somebody reads.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, slots=True)
class StageState:
    """What a stage said last.

    Args:
        stage: Its place in the ring, from 1.
        node: The name of its node.
        pid: The process.
        first: The first layer.
        last: The layer after the last one.
        busy: Seconds that it computed in this epoch.
        sent_bytes: Bytes that it sent to the next one.
        sent_waited: Seconds that it stood still to send.
        received_bytes: Bytes that came in.
        received_waited: Seconds that it waited for them.
        codec: How it writes hidden states.
        memory: Bytes that the node offers.
        ring: The ring that it belongs to, from 1.
    """

    stage: int
    node: str
    pid: int
    first: int
    last: int
    busy: float = 0.0
    sent_bytes: float = 0.0
    sent_waited: float = 0.0
    received_bytes: float = 0.0
    received_waited: float = 0.0
    codec: str = "f32"
    memory: float = 0.0
    ring: int = 1


@dataclass(frozen=True, slots=True)
class RingState:
    """What a ring is like at the moment.

    Args:
        epoch: The number of its epoch.
        is_serving: Whether it is whole.
        nodes: How many nodes it has, standbys included.
        running: How many sequences have a lane of it.
        waiting: How many wait for one.
        rows: Rows that were sent around it.
    """

    epoch: int
    is_serving: bool
    nodes: int
    running: int
    waiting: int
    rows: int


@dataclass(frozen=True, slots=True)
class State:
    """What the cluster is like at the moment.

    Args:
        epoch: The number of the newest epoch.
        is_serving: Whether a ring is whole.
        is_asleep: Whether the nodes have given their weights away.
        nodes: How many nodes are here, standbys included.
        running: How many sequences have a lane.
        waiting: How many wait for one.
        frames: How many frames are on their way.
        used: Positions of lanes that running sequences take.
        room: Positions that there are.
        reused: Tokens of prompts whose keys and values were there already.
        rows: Rows that were sent around the ring.
        proposed: Tokens that were guessed.
        accepted: Tokens that were guessed rightly.
        tasks: Tasks of the event loop.
        stages: The stages, in order, ring by ring.
        split: What shared the layers out: ``plan``, ``balanced``, ...
        rings: The rings.
    """

    epoch: int
    is_serving: bool
    is_asleep: bool
    nodes: int
    running: int
    waiting: int
    frames: int
    used: int
    room: int
    reused: int
    rows: int = 0
    proposed: int = 0
    accepted: int = 0
    tasks: int = 0
    stages: tuple[StageState, ...] = ()
    split: str = ""
    rings: tuple[RingState, ...] = ()


class Metrics:
    """Counts what happens.

    Args:
        state: Returns what the cluster is like.

    Attributes:
        generated: How many tokens were drawn.
    """

    def __init__(self, state: Callable[[], State]) -> None:
        self.generated = 0
        self.registry = registry = CollectorRegistry()
        self._prompt = Counter(
            "butterfly_prompt_tokens", "Tokens of prompts.", registry=registry
        )
        self._drawn = Counter(
            "butterfly_generated_tokens", "Tokens that were drawn.", registry=registry
        )
        self._answers = Counter(
            *("butterfly_answers", "Answers that ended, by why.", ["finish"]),
            registry=registry,
        )
        self._first = Histogram(
            "butterfly_first_token_seconds",
            "Time until the first token.",
            buckets=_FIRST,
            registry=registry,
        )
        self._between = Histogram(
            "butterfly_inter_token_seconds",
            "Time between two tokens of an answer.",
            buckets=_BETWEEN,
            registry=registry,
        )
        self._whole = Histogram(
            "butterfly_answer_seconds",
            "Time of whole answers.",
            buckets=_WHOLE,
            registry=registry,
        )
        registry.register(_Cluster(state))

    def token(self, is_first: bool, seconds: float) -> None:
        """Count a token.

        Args:
            is_first: Whether it is the first of its answer.
            seconds: What it took, from the token before or from the request.
        """
        self.generated += 1
        self._drawn.inc()
        (self._first if is_first else self._between).observe(seconds)

    def answer(self, why: str, prompt: int, seconds: float) -> None:
        """Count an answer that ended.

        Args:
            why: Why it ended.
            prompt: How many tokens its prompt has.
            seconds: What all of it took.
        """
        self._prompt.inc(prompt)
        self._answers.labels(why).inc()
        self._whole.observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)


class _Cluster(Collector):
    """What is asked for when somebody reads."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Say nothing before there is a cluster."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of the cluster."""
        s = self._state()
        gauges = {
            "epoch": ("The number of the epoch.", s.epoch),
            "serving": ("Whether the ring is whole.", s.is_serving),
            "asleep": ("Whether the weights were given away.", s.is_asleep),
            "nodes": ("Nodes that are here.", s.nodes),
            "requests_running": ("Sequences that have a lane.", s.running),
            "requests_waiting": ("Sequences that wait for a lane.", s.waiting),
            "frames_in_flight": ("Frames on their way.", s.frames),
            "tasks": ("Tasks of the head's event loop.", s.tasks),
            "kv_used_ratio": ("Share of positions in use.", s.used / max(1, s.room)),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"butterfly_{name}", what, value=float(value))
        what = "Tokens of prompts whose keys and values were there already."
        yield CounterMetricFamily("butterfly_reused_tokens", what, value=s.reused)
        what = "Rows that were sent around the ring, of prompts and of answers."
        yield CounterMetricFamily("butterfly_rows", what, value=s.rows)
        what = "Tokens that were guessed, each a row of a frame."
        yield CounterMetricFamily("butterfly_proposed_tokens", what, value=s.proposed)
        what = "Tokens that were guessed rightly: each saved a frame."
        yield CounterMetricFamily("butterfly_accepted_tokens", what, value=s.accepted)
        yield from _of_rings(s)
        yield from _of_stages(s)


def _of_rings(state: State) -> Iterator[Metric]:
    """Give what each ring does: whether work is shared evenly."""
    what = "Sequences that have a lane of a ring."
    running = GaugeMetricFamily(
        "butterfly_ring_requests_running", what, labels=["ring"]
    )
    what = "Rows that were sent around a ring."
    rows = CounterMetricFamily("butterfly_ring_rows", what, labels=["ring"])
    for number, ring in enumerate(state.rings, 1):
        running.add_metric([str(number)], ring.running)
        rows.add_metric([str(number)], ring.rows)
    yield from (running, rows)


def _of_stages(state: State) -> Iterator[Metric]:
    """Give what each stage and each link did in this epoch."""
    busy = CounterMetricFamily(
        "butterfly_stage_busy_seconds",
        "Seconds that a stage computed.",
        labels=["stage", "node", "layers"],
    )
    size = CounterMetricFamily(
        "butterfly_link_bytes", "Bytes over a link.", labels=["source", "target"]
    )
    waited = CounterMetricFamily(
        "butterfly_link_waited_seconds",
        "Seconds that an end of a link stood still.",
        labels=["source", "target", "end"],
    )
    names = _names(state.stages)
    for number, s in enumerate(state.stages):
        own, each = names[number], state.stages
        is_first = s.stage == 1
        is_last = number + 1 == len(each) or each[number + 1].ring != s.ring
        before = "head" if is_first else names[number - 1]
        after = "head" if is_last else names[number + 1]
        busy.add_metric([str(s.stage), own, f"{s.first}-{s.last - 1}"], s.busy)
        size.add_metric([before, own], s.received_bytes)
        waited.add_metric([before, own, "target"], s.received_waited)
        waited.add_metric([own, after, "source"], s.sent_waited)
        if is_last:
            size.add_metric([own, after], s.sent_bytes)
    yield from (busy, size, waited)


def _names(stages: tuple[StageState, ...]) -> list[str]:
    """Return what nodes are called; Prometheus refuses two links of the same names."""
    nodes = [s.node for s in stages]
    rings = {s.ring for s in stages}
    place = "{0.node}/{0.ring}.{0.stage}" if len(rings) > 1 else "{0.node}/{0.stage}"
    return [s.node if nodes.count(s.node) == 1 else place.format(s) for s in stages]
