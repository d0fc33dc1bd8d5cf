"""What is to be planned, and what a chain costs in it.

A chain is a ring: hidden states go from stage to stage, sampled ids from the last
stage to the head process and on to the first. With `m` rows in a frame:

- `ring_s(m)`: what one frame needs once around, if nothing else is in the way;
- `beat_s(m)`: what the slowest stage or link needs for one frame;
- with `N` sequences in `k = N / m` frames, a token of each takes
  `cycle = max(ring, k * beat)`, and the chain gives `N / cycle` tokens a second
  (Little's law).

In a steady state every output token stands for `prompt / output` prompt tokens, which
travel in the same frames; so a frame of `m` rows carries `m * prompt / output` prompt
tokens. That keeps all costs linear in the layers, which the exact solvers need. The
queues that this does not know are the simulator's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from butterfly.errors import InfeasibleError
from butterfly.partitioning.chain import Chain, Stage
from butterfly.partitioning.cluster import LOCAL, Cluster, LayerTime, Link, Node
from butterfly.partitioning.codec import F32, Codec
from butterfly.partitioning.model import ModelShape
from butterfly.partitioning.workload import Workload

FRAME_BYTES = 64
SEGMENT_BYTES = 64
ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Hop:
    """One frame on one link.

    Args:
        busy_s: How long the link is taken.
        delay_s: How long the last byte then travels; others may follow meanwhile.
        codec: The wire format.
    """

    busy_s: float
    delay_s: float
    codec: str = F32.name

    @property
    def seconds(self) -> float:
        """From the first byte sent to the last one received."""
        return self.busy_s + self.delay_s


@dataclass(frozen=True)
class Problem:
    """A model, the machines for it and what is asked of them.

    Args:
        cluster: The machines.
        model: The transformer.
        workload: The requests.
        codecs: Wire formats that may be used, the most exact first.
    """

    cluster: Cluster
    model: ModelShape
    workload: Workload = Workload()
    codecs: tuple[Codec, ...] = (F32,)

    def head_time(self, node: Node) -> LayerTime:
        """Return what the head costs on a node."""
        if node.head is not None:
            return node.head
        layer, cost = node.layer, self.model.head_cost
        return LayerTime(layer.fixed_s * cost, layer.row_s * cost, 0.0)

    def layer_seconds(self, node: Node, rows: float) -> float:
        """Return what a layer of cost 1 takes for a frame in the steady state."""
        return node.layer.seconds(rows, rows * self.workload.prompt_share)

    def head_seconds(self, node: Node, rows: float) -> float:
        """Return what the head takes for a frame in the steady state."""
        return self.head_time(node).seconds(
            rows * (1 + 1 / self.workload.output_tokens)
        )

    def stage_seconds(self, stage: Stage, rows: float) -> float:
        """Return what a stage takes for a frame in the steady state."""
        node = self.cluster.node(stage.node)
        layers = self.model.layers[stage.first : stage.last + 1]
        cost = sum(layer.cost for layer in layers)
        ends = stage.last == self.model.size - 1
        head = self.head_seconds(node, rows) if ends else 0.0
        return cost * self.layer_seconds(node, rows) + head

    def hop(self, source: str, target: str, rows: float, codec: Codec) -> Hop:
        """Return what a frame of hidden states costs on a link."""
        link = self.cluster.link(source, target)
        if link is LOCAL:
            return Hop(0.0, 0.0, codec.name)
        travelling = rows * (1 + self.workload.prompt_share)
        size = FRAME_BYTES + SEGMENT_BYTES * rows
        size += codec.size(self.model.hidden, travelling)
        busy = size / link.bytes_per_s + codec.row_s * travelling
        return Hop(busy, link.round_trip_s / 2, codec.name)

    def best_hop(self, source: str, target: str, rows: float) -> Hop:
        """Return the hop with the fastest codec; of equals the most exact one."""
        hops = [self.hop(source, target, rows, codec) for codec in self.codecs]
        return min(hops, key=lambda hop: hop.busy_s)

    def closing(self, last: str, first: str, rows: float) -> tuple[Hop, ...]:
        """Return the hops of token ids: from the last stage over the head."""
        head = self.cluster.head
        pairs = [(last, first)] if head is None else [(last, head), (head, first)]
        links = [self.cluster.link(*pair) for pair in pairs]
        return tuple(_ids(link, rows, self.workload.prompt_share) for link in links)

    def stage_bytes(self, stage: Stage, lanes: int) -> float:
        """Return the memory of a stage with some lanes."""
        cached = float(lanes * self.workload.lane)
        layers = self.model.layers[stage.first : stage.last + 1]
        sizes = sum(x.weight_bytes + x.kv_token_bytes * cached for x in layers)
        return sizes + self.model.ends_bytes(stage.first, stage.last)

    def max_lanes(self, stages: Sequence[Stage]) -> int:
        """Return how many sequences the KV memory holds; 0: not even the weights."""
        most = self.workload.requests
        for stage in stages:
            room = self.cluster.node(stage.node).memory_bytes
            weights = self.stage_bytes(stage, 0)
            lane = self.stage_bytes(stage, 1) - weights
            if weights > room:
                return 0
            if lane > 0:
                most = min(most, math.floor((room - weights) / lane * (1 + 1e-12)))
        return most

    def verify(self, stages: Sequence[Stage], lanes: int = 1) -> None:
        """Refuse stages that their nodes have no memory for.

        Raises:
            InfeasibleError: It names the node, and by how much.
        """
        self.verify_all([(stages, lanes)])

    def verify_all(self, chains: Sequence[tuple[Sequence[Stage], int]]) -> None:
        """Refuse chains, each with its lanes, whose nodes have no memory for them.

        A layer that two chains use on a node is there once, the lanes add up.

        Raises:
            InfeasibleError: It names the node, and by how much.
        """
        held: dict[str, dict[int, int]] = {}
        for stages, lanes in chains:
            for stage in stages:
                layers = held.setdefault(stage.node, {})
                for layer in range(stage.first, stage.last + 1):
                    layers[layer] = layers.get(layer, 0) + lanes
        for name, layers in held.items():
            room, size = self.cluster.node(name).memory_bytes, self._bytes(layers)
            if size > room * (1 + 1e-12):
                most = max(layers.values())
                raise InfeasibleError(
                    f"node {name!r} has {gigabytes(room)} for layers {min(layers)} to "
                    f"{max(layers)}, which with {most} lanes take {gigabytes(size)}: "
                    f"{gigabytes(size - room)} too much",
                    "node",
                    size,
                    room,
                )

    def _bytes(self, lanes: dict[int, int]) -> float:
        """Return the memory of layers with some lanes each, the ends included."""
        model, lane = self.model, self.workload.lane
        layers = ((model.layers[index], n * lane) for index, n in lanes.items())
        size = sum(x.weight_bytes + x.kv_token_bytes * n for x, n in layers)
        return size + model.ends_bytes(min(lanes), max(lanes))

    def stage_times(self, chain: Chain) -> list[float]:
        """Return the seconds of a full frame on each stage."""
        return [self.stage_seconds(s, chain.micro_batch) for s in chain.stages]

    def hops(self, chain: Chain) -> list[Hop]:
        """Return the hops of a full frame: between stages, then the way back."""
        by_name = {codec.name: codec for codec in self.codecs}
        names, rows = chain.nodes, chain.micro_batch
        hops = [
            self.hop(a, b, rows, by_name[codec])
            for a, b, codec in zip(names, names[1:], chain.codecs, strict=False)
        ]
        return [*hops, *self.closing(names[-1], names[0], rows)]

    def ring_s(self, chain: Chain) -> float:
        """Return the seconds of a frame once around, alone."""
        hops = self.hops(chain)
        return sum(self.stage_times(chain)) + sum(hop.seconds for hop in hops)

    def beat_s(self, chain: Chain) -> float:
        """Return the seconds of a frame at the slowest stage or link."""
        hops = self.hops(chain)
        return max(*self.stage_times(chain), *(hop.busy_s for hop in hops), 0.0)

    def tokens_per_s(self, chain: Chain) -> float:
        """Return the output tokens a second, by Little's law."""
        beats = chain.lanes / chain.micro_batch * self.beat_s(chain)
        return chain.lanes / max(self.ring_s(chain), beats)


def _ids(link: Link, rows: float, prompt_share: float) -> Hop:
    """Return the hop of a frame of token ids."""
    if link is LOCAL:
        return Hop(0.0, 0.0)
    size = FRAME_BYTES + SEGMENT_BYTES * rows + ID_BYTES * rows * (1 + prompt_share)
    return Hop(size / link.bytes_per_s, link.round_trip_s / 2)


def gigabytes(size: float) -> str:
    """Return a size in words."""
    return f"{size / 1e9:.3g} GB"
