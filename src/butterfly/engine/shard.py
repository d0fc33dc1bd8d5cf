"""`Shard`: the part of each layer that one of several processes computes.

Which linear layers are cut, and how, is transformers' own plan (`base_model_tp_plan` of
the configuration): attention heads and the inner numbers of the MLP are dealt out
(*colwise*: some of the outputs), and the layers after them take what one process has
(*rowwise*: some of the inputs), so what each of these gives is one term of a sum. Two
sums a layer; between them nobody waits (arXiv:1909.08053).

A low-rank adapter is cut as its layer is: of `B A x` a *colwise* layer takes rows of B,
a *rowwise* one columns of A, and the sum that follows is the adapter's, too.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from butterfly.engine.library import head_size
from butterfly.errors import ConfigurationError

_LAYERS = "layers.*."
_WHOLE = ("replicated_with_grad_allreduce",)
_DEALT = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of each layer that one of several processes computes.

    Args:
        rank: Which of them, from 0.
        count: How many there are.
        add: Adds a tensor up over all of them, in place; all get the sum.
        styles: How the linear layers of a decoder layer are cut, by their names.
    """

    rank: int
    count: int
    add: Callable[[torch.Tensor], None]
    styles: dict[str, str]

    @classmethod
    def of(
        cls, config: Any, rank: int, count: int, add: Callable[[torch.Tensor], None]
    ) -> "Shard":
        """Return a part of the layers of a model.

        Args:
            config: The transformers configuration of the model.
            rank: Which part.
            count: How many there are.
            add: As in `Shard`.

        Raises:
            ConfigurationError: If its layers cannot be cut into so many parts.
        """
        return cls(rank, count, add, styles_of(config, count))

    def config(self, config: Any) -> Any:
        """Return the configuration of a model whose layers are this part.

        Args:
            config: That of the whole model.
        """
        own = copy.deepcopy(config)
        own.head_dim = head_size(config)
        for name in _DEALT:
            setattr(own, name, getattr(config, name) // self.count)
        return own

    def cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return this part of a tensor of a decoder layer, in memory of its own.

        Args:
            name: Its name in the layer, such as ``mlp.up_proj.weight``, or
                ``mlp.up_proj.lora_A`` for a matrix of an adapter.
            tensor: The whole tensor.
        """
        path, _, kind = name.rpartition(".")
        style = self.styles.get(path)
        if style == "colwise" and kind != "lora_A":
            return tensor.chunk(self.count)[self.rank].clone()
        if style == "rowwise" and kind in ("weight", "lora_A"):
            return tensor.chunk(self.count, 1)[self.rank].clone()
        if style == "rowwise" and kind == "bias" and self.rank:
            return torch.zeros_like(tensor)  # it is one term of the sum
        return tensor

    def join(self, layers: nn.ModuleList) -> None:
        """Let the layers that give terms of a sum give the sum.

        Args:
            layers: Decoder layers of this part.
        """
        for layer in layers:
            for name, style in self.styles.items():
                if style == "rowwise":
                    layer.get_submodule(name).register_forward_hook(self._sum)

    def _sum(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        del module, args
        found = output.contiguous()
        self.add(found)
        return found


def styles_of(config: Any, count: int) -> dict[str, str]:
    """Return how the linear layers of a model's decoder layers are cut.

    Args:
        config: The transformers configuration of the model.
        count: Into how many parts.

    Raises:
        ConfigurationError: If they cannot be cut into so many parts.
    """
    plan = getattr(config, "base_model_tp_plan", None) or {}
    inner = {
        name.removeprefix(_LAYERS): style
        for name, style in plan.items()
        if name.startswith(_LAYERS) and style not in _WHOLE
    }
    if not inner or set(inner.values()) - {"colwise", "rowwise"}:
        raise ConfigurationError(
            f"layers of the family {config.model_type!r} cannot be cut: transformers "
            "has no plan of columns and rows for them. Serve without --tensor."
        )
    for name in _DEALT:
        if (size := getattr(config, name)) % count:
            raise ConfigurationError(
                f"a layer cannot be cut into {count} parts: the model has {name} = "
                f"{size}. Name a --tensor that divides it."
            )
    return inner
