"""A transformer as numbers: what each layer weighs, keeps and costs."""

from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from butterfly.errors import ConfigurationError
from butterfly.partitioning.form import (
    build,
    check,
    not_negative,
    positive,
    read_json,
    write_json,
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Args:
        weight_bytes: Its weights.
        kv_token_bytes: Its keys and values of one token.
        cost: Its time, as a multiple of what `Node.layer` measures.
    """

    weight_bytes: float
    kv_token_bytes: float
    cost: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no layer."""
        not_negative("a layer", weight_bytes=self.weight_bytes)
        not_negative("a layer", kv_token_bytes=self.kv_token_bytes)
        positive("a layer", cost=self.cost)


@dataclass(frozen=True)
class ModelShape:
    """A transformer as the planner sees it.

    The first stage holds the embedding, the last one the head. Tied embeddings are
    the same tensor, so a single stage holds it once and two stages hold it twice.

    Args:
        name: What it is called.
        hidden: Values in a row of hidden states.
        layers: The decoder layers, in order; they may differ.
        embedding_bytes: The embedding.
        head_bytes: The output projection; with `tied` the embedding again.
        head_cost: The time of the head in layers (in SmolLM2-135M about seven).
        tied: Whether embedding and head are one tensor.
    """

    name: str
    hidden: int
    layers: tuple[Layer, ...]
    embedding_bytes: float = 0.0
    head_bytes: float = 0.0
    head_cost: float = 1.0
    tied: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no model."""
        where = f"model {self.name!r}"
        if not self.layers:
            raise ConfigurationError(f"{where} has no layers: give at least one")
        positive(where, hidden=self.hidden)
        not_negative(where, embedding_bytes=self.embedding_bytes)
        not_negative(where, head_bytes=self.head_bytes, head_cost=self.head_cost)

    @classmethod
    def uniform(
        cls,
        name: str,
        *,
        hidden: int,
        layers: int,
        weight_bytes: float,
        kv_token_bytes: float,
        **rest: Any,
    ) -> "ModelShape":
        """Return a model whose layers are alike.

        Args:
            name: What it is called.
            hidden: Values in a row of hidden states.
            layers: How many.
            weight_bytes: The weights of one layer.
            kv_token_bytes: Keys and values of one token in one layer.
            **rest: The other fields.
        """
        layer = Layer(weight_bytes, kv_token_bytes)
        return cls(name, hidden, (layer,) * layers, **rest)

    @property
    def size(self) -> int:
        """The number of decoder layers."""
        return len(self.layers)

    @property
    def weight_bytes(self) -> float:
        """All weights, each once."""
        head = 0.0 if self.tied else self.head_bytes
        return self.embedding_bytes + head + sum(x.weight_bytes for x in self.layers)

    def ends_bytes(self, first: int, last: int) -> float:
        """Return what embedding and head add to a stage of layers first to last."""
        opens, closes = first == 0, last == self.size - 1
        if opens and closes and self.tied:
            return max(self.embedding_bytes, self.head_bytes)
        return opens * self.embedding_bytes + closes * self.head_bytes

    def prefix_costs(self) -> list[float]:
        """Return the cost of the first 0, 1, ... layers, `[size + 1]`."""
        return list(accumulate((x.cost for x in self.layers), initial=0.0))

    def prefix_bytes(self, cached_tokens: float) -> list[float]:
        """Return the bytes of the first 0, 1, ... layers with some tokens cached."""
        sizes = (x.weight_bytes + x.kv_token_bytes * cached_tokens for x in self.layers)
        return list(accumulate(sizes, initial=0.0))

    def to_json(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "ModelShape":
        """Return the model that `to_json` told of.

        Raises:
            ConfigurationError: Something is missing, unknown or no number.
        """
        known = cls.__dataclass_fields__
        check(data, "the model", ["name", "hidden", "layers"], known)
        layers = tuple(
            build(Layer, layer, f"layers[{i}]")
            for i, layer in enumerate(data["layers"])
        )
        return build(cls, {**data, "layers": layers}, "the model")

    @classmethod
    def read(cls, path: str | Path) -> "ModelShape":
        """Return the model that a JSON file holds."""
        return cls.from_json(read_json(path))

    def write(self, path: str | Path) -> None:
        """Write a JSON file that `read` understands."""
        write_json(path, self.to_json())
