"""`Role`: what the head tells a node to be in an epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from butterfly.cluster.options import HeadOptions
from butterfly.communication.codecs import CODECS, codec_number
from butterfly.communication.frames import largest
from butterfly.engine.library import head_size
from butterfly.partitioning import Chain, Stage
from butterfly.scheduling import Limits

_PROMPT_ROWS, _LEAST_PART = 256, 16
_RESULT_BYTES = 16 + 8 * 20  # of a token with the log probabilities of 20 others


@dataclass(frozen=True, slots=True)
class Role:
    """What a node is in an epoch.

    Args:
        epoch: The number of the epoch.
        name: Its random name.
        rank: The rank in the ring; the head has 0.
        size: How many ranks there are, the head included.
        store_port: The port of the head's store.
        model: What to load, as for `Checkpoint.of`.
        first: The first layer.
        last: The layer after the last one.
        lanes: How many sequences there is room for.
        positions: How many positions each.
        rows: The most rows of a frame.
        row_bytes: The most bytes of a row in a frame.
        depth: How many frames may be on their way over a link.
        codec: The number of the codec for what it sends.
        dtype: The format of weights, ``float32`` or ``bfloat16``.
        extra: The most bytes that a segment has besides: the tokens it may draw,
            and what was said before.
        adapters: The numbers and folders of adapters.
        patience: Seconds to wait for the others, who may still load their layers.
        drafts: The most rows of drafts in a frame; each may bring as much as a segment.
    """

    epoch: int
    name: str
    rank: int
    size: int
    store_port: int
    model: str
    first: int
    last: int
    lanes: int
    positions: int
    rows: int
    row_bytes: int
    depth: int = 4
    codec: int = 0
    dtype: str = "float32"
    extra: int = 8192
    adapters: tuple[tuple[int, str], ...] = ()
    patience: float = 60.0
    drafts: int = 0

    @property
    def frame_bytes(self) -> int:
        """The size of the largest frame."""
        segments, rows = self.lanes + self.drafts, self.rows + self.drafts
        return largest(segments, rows, self.row_bytes, self.extra)

    def message(self) -> dict[str, Any]:
        """Return it as a message for a control connection."""
        return {"do": "stage", "role": asdict(self)}

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "Role":
        """Return the role that a message brings.

        Args:
            message: What `message` gave.
        """
        return cls(**message["role"])


def roles_of(
    options: HeadOptions, config: Any, place: tuple[int, str, int], chain: Chain
) -> list[Role]:
    """Return the roles of an epoch, in the order of the ring.

    Args:
        options: What the head was told.
        config: The transformers configuration of the model.
        place: The number of the epoch, its name, the port of the store.
        chain: Who holds what, and how it is used.

    Raises:
        ConfigurationError: If a codec is not known.
    """
    (epoch, name, port), o, limits = place, options, limits_of(options, chain)
    codecs = [codec_number(codec) for codec in (*chain.codecs, o.codec)]
    sizes = [CODECS[codec].row_bytes(config.hidden_size) for codec in codecs]
    rows = max(limits.chunk, limits.beside) + limits.lanes
    return [
        Role(
            *(epoch, name, rank, len(chain.stages) + 1, port, o.model),
            *(stage.first, stage.last + 1, limits.lanes, o.positions),
            *(rows, max(*sizes, _RESULT_BYTES)),
            depth=max(2, limits.frames) + 1,
            codec=codecs[rank - 1],
            dtype=o.dtype,
            extra=8192 + config.vocab_size // 8 + 4 * o.positions,
            drafts=o.speculate,
        )
        for rank, stage in enumerate(chain.stages, 1)
    ]


def limits_of(options: HeadOptions, chain: Chain) -> Limits:
    """Return how much may travel at once: what the head was told, else the chain.

    Args:
        options: What the head was told.
        chain: How the stages are to be used.
    """
    o, frames = options, options.frames or chain.frames
    return Limits(
        chain.lanes,
        frames,
        o.rows or chain.micro_batch,
        o.chunk or max(chain.chunk, part(frames)),
        o.chunk or chain.chunk,
    )


def part(frames: int) -> int:
    """Return the rows of prompts in a frame where no plan says how many.

    All frames together carry the same: small parts starve lanes behind few frames,
    large ones are bubbles that visit every stage.

    Args:
        frames: How many may be on their way.
    """
    return max(_LEAST_PART, _PROMPT_ROWS // frames)


def chain_of(
    options: HeadOptions, names: Sequence[str], depth: int, head: float
) -> Chain:
    """Return a chain over nodes whose parts cost about the same.

    Args:
        options: What the head was told.
        names: The nodes, in order.
        depth: How many layers the model has.
        head: What the head costs, in layers; 0 for an even split.
    """
    o, ranges = options, balanced(depth, len(names), head)
    pairs = zip(names, ranges, strict=True)
    frames = o.frames or len(names)
    return Chain(
        tuple([Stage(name, first, last - 1) for name, (first, last) in pairs]),
        (o.codec,) * (len(names) - 1),
        o.lanes,
        -(-o.lanes // frames),
        part(frames),
        frames,
    )


def balanced(depth: int, count: int, head_layers: float) -> list[tuple[int, int]]:
    """Return ranges of layers that cost about the same, the head included.

    Args:
        depth: How many layers the model has.
        count: How many ranges.
        head_layers: What the head costs, in layers.
    """
    total = depth + head_layers
    cuts = [round(k * total / count) for k in range(count)]
    for k in range(count):
        cuts[k] = min(max(cuts[k], k), depth - (count - k))
    return list(zip(cuts, [*cuts[1:], depth], strict=True))


def head_layers(config: Any) -> float:
    """Return what the head costs, in layers, by the numbers it multiplies.

    Args:
        config: The transformers configuration of the model.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads + config.num_key_value_heads
    layer = 3 * hidden * inner + 2 * hidden * head_size(config) * heads
    return float(hidden * config.vocab_size / layer)
