"""Emulated compute: a stage that sleeps for its measured time instead of computing.

So the pipeline, the links, the frames and the scheduler are what is measured, not how
many cores a machine has. Everything else is Butterfly's own: `EmulatedNode` is a node
whose stages are `Emulated`.

`COSTS` is what `butterfly.cluster.profile.layer_times` says of SmolLM2-135M (float32,
one thread) on 2 shared cores, 2026-11-22, the least of three runs: a layer takes 2.7 ms
a frame, 0.15 ms a row that decodes, 0.1 ms a prompt token; the head 20 ms and 0.9 ms.
"""

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import torch

from butterfly.cluster.node import NodeAgent, NodeOptions
from butterfly.cluster.roles import Role
from butterfly.communication.frames import Segment
from butterfly.partitioning import LayerTime

LAYERS, HIDDEN, VOCABULARY = 30, 576, 49152  # SmolLM2-135M


@dataclass(frozen=True, slots=True)
class Costs:
    """What a frame takes.

    Args:
        layer: In a layer.
        head: In the head, for each row whose token is drawn.
    """

    layer: LayerTime
    head: LayerTime


COSTS = Costs(LayerTime(2.7e-3, 1.5e-4, 1e-4), LayerTime(20e-3, 9e-4, 0.0))


class _NoAdapters:
    """The adapters of an emulated stage: none."""

    numbers: Items[int] = ()


@dataclass(frozen=True)
class _Lanes:
    """Room for everything."""

    count: int = 1 << 16
    positions: int = 1 << 20


@dataclass
class Emulated:
    """A stage that sleeps instead of computing.

    Args:
        first: The first layer.
        last: The layer after the last one.
        costs: What frames take.
    """

    first: int
    last: int
    costs: Costs = COSTS
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    adapters: _NoAdapters = field(default_factory=_NoAdapters)
    lanes: _Lanes = field(default_factory=_Lanes)

    def __post_init__(self) -> None:
        self.states = torch.randn(2048, HIDDEN)
        self.logits_of = torch.zeros(1, 16)

    @property
    def is_first(self) -> bool:
        """Whether it takes tokens."""
        return self.first == 0

    @property
    def is_last(self) -> bool:
        """Whether it has the head."""
        return self.last == LAYERS

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return hidden states, `[rows, hidden]`."""
        return self.states[: len(tokens)]

    def forward(self, hidden: torch.Tensor, segments: Items[Segment]) -> torch.Tensor:
        """Sleep for all layers."""
        until = time.perf_counter()
        rows = sum(s.length == 1 for s in segments)
        tokens = sum(s.length for s in segments if s.length > 1)
        each = self.costs.layer.seconds(rows, tokens)
        _sleep_until(until + (self.last - self.first) * each)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Sleep for the head; return logits, `[rows, 16]`."""
        until = time.perf_counter()
        _sleep_until(until + self.costs.head.seconds(len(hidden)))
        return self.logits_of.expand(len(hidden), -1)


class EmulatedNode(NodeAgent):
    """A node that sleeps instead of computing.

    Args:
        options: What it was told.
        costs: What frames take.
    """

    def __init__(self, options: NodeOptions, costs: Costs = COSTS) -> None:
        super().__init__(options)
        self._costs = costs

    def _stage(self, role: Role) -> Any:
        return Emulated(role.first, role.last, self._costs)


def _sleep_until(then: float) -> None:
    """Sleep to a time of `perf_counter`; the last bit is awake, sleeping is coarse."""
    left = then - time.perf_counter()
    if left > 3e-4:
        time.sleep(left - 2e-4)
    while time.perf_counter() < then:
        pass
