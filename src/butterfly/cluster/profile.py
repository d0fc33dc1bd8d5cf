"""Measuring: what layers cost on this machine, and what a link carries.

The planner's numbers come from here. A frame's time in a layer is linear in its rows
as far as matters, `fixed + row * rows + token * tokens`, so a few sizes are timed, the
least of some rounds each (what other programs take makes times longer, never shorter),
and a line is laid through them.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch

from butterfly.communication.frames import Frame, Kind, Segment
from butterfly.communication.links import Ring
from butterfly.engine.library import head_size
from butterfly.engine.stage import Shape
from butterfly.engine.team import stage_of
from butterfly.engine.weights import Checkpoint
from butterfly.partitioning import Layer, LayerTime, Link, ModelShape, Node

_CONTEXT = 64  # positions that decoding rows look back on
_BATCHES = (1, 2, 4, 8, 16)
_PROMPTS = (32, 64, 128)
_ROUNDS, _MOST_ROUNDS = 5, 50
_ENOUGH = 0.05  # seconds in which a size is timed again and again
_LEAST = 1e-9  # seconds


def node_of(
    name: str,
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    memory: int = 0,
    tensor: int = 1,
) -> Node:
    """Measure this machine.

    Args:
        name: What to call it.
        checkpoint: The model that it may hold layers of.
        dtype: Of weights and hidden states.
        device: Where to compute.
        memory: Bytes that it offers; 0 for what is free.
        tensor: How many processes compute each layer together.
    """
    layer, head = layer_times(checkpoint, dtype=dtype, device=device, tensor=tensor)
    return Node(name, float(memory or free_memory(device)), layer, head)


def free_memory(device: str = "cpu") -> int:
    """Return the bytes that a program could still take.

    Args:
        device: Where.
    """
    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if told.is_file():  # what is only cached counts as free there
        lines = dict(line.split(":") for line in told.read_text().splitlines())
        if "MemAvailable" in lines:
            return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shape_of(
    checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32
) -> ModelShape:
    """Return a model as numbers; no tensor is read.

    The head's cost is guessed from what it multiplies; `layer_times` measures it.

    Args:
        checkpoint: The model.
        dtype: What the weights will be turned into.
    """
    config = checkpoint.config()
    sizes = {n: k * dtype.itemsize for n, k in checkpoint.counts().items()}
    kv = 2 * config.num_key_value_heads * head_size(config) * dtype.itemsize
    weights = [
        sum(size for name, size in sizes.items() if f"layers.{k}." in name)
        for k in range(config.num_hidden_layers)
    ]
    embedding = config.hidden_size * config.vocab_size * dtype.itemsize
    return ModelShape(
        checkpoint.folder.name,
        config.hidden_size,
        tuple([Layer(float(weight), float(kv)) for weight in weights]),
        embedding_bytes=float(embedding),
        head_bytes=float(embedding),
        head_cost=embedding / max(1.0, sum(weights) / len(weights)),
        tied="lm_head.weight" not in sizes,
    )


def stage_bytes(
    model: ModelShape, ranges: tuple[int, int], lanes: int, positions: int
) -> float:
    """Return the most memory that a stage takes.

    Args:
        model: The model.
        ranges: The first layer, and the one after the last.
        lanes: How many sequences there is room for.
        positions: How many positions each.
    """
    first, last = ranges
    ends = model.ends_bytes(first, last - 1)
    cached = float(lanes * positions)
    layers = model.layers[first:last]
    return ends + sum(x.weight_bytes + x.kv_token_bytes * cached for x in layers)


def layer_times(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tensor: int = 1,
) -> tuple[LayerTime, LayerTime]:
    """Return what a layer takes on this machine, and what the head does.

    Args:
        checkpoint: The model; its last two layers are loaded.
        dtype: Of weights and hidden states.
        device: Where to compute.
        tensor: How many processes compute each layer together.
    """
    depth = checkpoint.config().num_hidden_layers
    first = max(0, depth - 2)
    shape = Shape(first, depth, max(_BATCHES), _CONTEXT + max(_PROMPTS) + 1)
    stage = stage_of(checkpoint, shape, dtype=dtype, device=device, tensor=tensor)
    count = depth - first

    def layers(segments: Sequence[Segment]) -> float:
        rows = sum(segment.length for segment in segments)
        hidden = torch.randn(rows, stage.hidden).to(device, dtype)
        return _least(lambda: stage.forward(hidden, segments), device) / count

    def head(rows: int) -> float:
        hidden = torch.randn(rows, stage.hidden).to(device, dtype)
        return _least(lambda: stage.logits(hidden).argmax(-1), device)

    decoding = [layers([Segment(k, _CONTEXT, 1) for k in range(n)]) for n in _BATCHES]
    fixed, row = line(_BATCHES, decoding)
    prompts = [layers([Segment(0, 0, n)]) for n in _PROMPTS]
    _, token = line(_PROMPTS, prompts)
    head_fixed, head_row = line(_BATCHES, [head(n) for n in _BATCHES])
    return LayerTime(fixed, row, token), LayerTime(head_fixed, head_row, 0.0)


def line(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the line nearest to some times: what a frame takes, and what a row does.

    Neither is below zero.

    Args:
        sizes: The numbers of rows.
        seconds: The times.
    """
    n = len(sizes)
    mean, level = sum(sizes) / n, sum(seconds) / n
    spread = sum((size - mean) ** 2 for size in sizes)
    pairs = zip(sizes, seconds, strict=True)
    slope = sum((x - mean) * (y - level) for x, y in pairs) / spread
    slope = max(_LEAST, slope)
    return max(_LEAST, level - slope * mean), slope


def link_of(
    ring: Ring, *, is_first: bool, rounds: int = 8, size: int = 1 << 20
) -> Link:
    """Measure the link of a ring of two ranks; both call it.

    Args:
        ring: One end, with frames of at least `size` bytes and some.
        is_first: Whether this end begins.
        rounds: How many frames go there and back, of each size.
        size: The bytes of a large frame.

    Raises:
        LinkError: If the link broke.
    """
    small, large = [_there_and_back(ring, is_first, rounds, n) for n in (8, size)]
    return Link(small, 2 * size / max(_LEAST, large - small))


def _there_and_back(ring: Ring, is_first: bool, rounds: int, size: int) -> float:
    """Return the least seconds that a frame took there and back."""
    best, payload = math.inf, bytes(size)
    for step in range(rounds):
        frame = Frame(ring.epoch, step, (), Kind.TOKENS, payload)
        began = perf_counter()
        if is_first:
            ring.send(frame)
        ring.receive()
        if not is_first:
            ring.send(frame)
        best = min(best, perf_counter() - began)
    return best


def _least(work: Callable[[], object], device: str) -> float:
    """Return the least seconds that some work took: often, where it is short."""
    best, left = math.inf, _ENOUGH
    for number in range(_MOST_ROUNDS):
        began = perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        took = perf_counter() - began
        best, left = min(best, took), left - took
        if number >= _ROUNDS and left < 0:  # the first one warms up
            break
    return best
