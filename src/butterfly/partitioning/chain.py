"""A placement: which node holds which layers, and how frames travel."""

from dataclasses import asdict, dataclass
from typing import Any

from butterfly.errors import ConfigurationError
from butterfly.partitioning.form import build, check, positive


@dataclass(frozen=True, slots=True)
class Stage:
    """A node with a range of layers.

    Args:
        node: The name of the node.
        first: Its first layer, counted from 0.
        last: Its last layer, itself included.
    """

    node: str
    first: int
    last: int

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not 0 <= self.first <= self.last:
            raise ConfigurationError(
                f"stage {self.node!r} has layers {self.first} to {self.last}: "
                "the first must not be after the last"
            )

    @property
    def size(self) -> int:
        """The number of its layers."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages that hold a model once, in order, and how they are used.

    Args:
        stages: Without gaps, from the first layer to the last.
        codecs: The wire format of each hop between stages, `[stages - 1]`.
        lanes: Sequences at once.
        micro_batch: Decoding rows in a frame at most: the decode cap.
        chunk: Prompt tokens in a frame at most.
        in_flight: Frames under way at most; 0: lanes over rows, rounded up.
    """

    stages: tuple[Stage, ...]
    codecs: tuple[str, ...]
    lanes: int = 1
    micro_batch: int = 1
    chunk: int = 256
    in_flight: int = 0

    def __post_init__(self) -> None:
        """Refuse gaps, nodes that occur twice and hops without a codec."""
        ends = [-1, *(stage.last for stage in self.stages)]
        for end, stage in zip(ends, self.stages, strict=False):
            if stage.first != end + 1:
                raise ConfigurationError(
                    f"stage {stage.node!r} begins with layer {stage.first}: "
                    f"it must be layer {end + 1}"
                )
        names = self.nodes
        if len(set(names)) < len(names):
            raise ConfigurationError(f"a node occurs twice in {', '.join(names)}")
        if len(self.codecs) != len(self.stages) - 1:
            raise ConfigurationError(
                f"{len(self.stages)} stages have {len(self.stages) - 1} hops, but "
                f"{len(self.codecs)} codecs are given"
            )
        positive("a chain", lanes=self.lanes, micro_batch=self.micro_batch)
        positive("a chain", chunk=self.chunk)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its nodes, in order."""
        return tuple(stage.node for stage in self.stages)

    @property
    def frames(self) -> int:
        """Frames under way at most."""
        return self.in_flight or -(-self.lanes // self.micro_batch)

    def to_json(self) -> dict[str, Any]:
        """Return the chain as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "the chain") -> "Chain":
        """Return the chain that `to_json` told of.

        Raises:
            ConfigurationError: Something is missing, unknown or does not fit.
        """
        check(data, where, ["stages", "codecs"], cls.__dataclass_fields__)
        stages = tuple(
            build(Stage, stage, f"{where}.stages[{i}]")
            for i, stage in enumerate(data["stages"])
        )
        codecs = tuple(data["codecs"])
        return build(cls, {**data, "stages": stages, "codecs": codecs}, where)
