"""`Stage`: a range of a model's layers, over transformers' own modules.

A stage makes the modules of its layers without memory (meta device), with indices from
0, and fills them with its own tensors. The first stage has the embedding, the last one
the final norm and the head; where the two share a matrix both have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from butterfly.communication.frames import Segment
from butterfly.engine.adapters import Adapters
from butterfly.engine.attention import NAME, Rows, attend
from butterfly.engine.lanes import Lanes
from butterfly.engine.library import empty_model, head_size
from butterfly.engine.linear import hasten
from butterfly.engine.shard import Shard
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ConfigurationError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")


@dataclass(frozen=True, slots=True)
class Shape:
    """Which layers a stage has, and how much room for sequences.

    Args:
        first: The first layer.
        last: The layer after the last one.
        lanes: How many sequences there is room for.
        positions: How many positions each.
    """

    first: int
    last: int
    lanes: int = 16
    positions: int = 1024


class Stage:
    """A range of layers, and the lanes of the sequences that go through it.

    Args:
        checkpoint: Where the tensors are.
        shape: Which layers, and how much room.
        dtype: Of weights and hidden states.
        device: Where to compute.
        shard: The part of each layer that this process computes, None for all of it.
            All processes of the stage get the same frames; all but the first have
            neither embedding nor head.

    Raises:
        ConfigurationError: If the range is none of the model's, or its family is not
            known.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        shard: Shard | None = None,
    ) -> None:
        whole = config = checkpoint.config()
        _check(config, shape)
        if shard is not None:
            config = shard.config(whole)
        self.shape = shape
        self.depth = config.num_hidden_layers
        has_ends = shard is None or not shard.rank
        self.is_first = has_ends and shape.first == 0
        self.is_last = has_ends and shape.last == self.depth
        self.hidden, self.vocabulary = config.hidden_size, config.vocab_size
        self.dtype, self.device = dtype, device
        model = empty_model(config, shape.first, shape.last, NAME, attend)
        hasten(model)
        self._config = model.config.get_text_config()
        self._inner = model.get_decoder()
        own = Tensors(checkpoint, dtype, device, shard)
        _fill(model, own, shape, self.is_first, self.is_last)
        self._head = model.get_output_embeddings() if self.is_last else None
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._types = getattr(self._config, "layer_types", None)
        if shard is not None:
            shard.join(self._inner.layers)
        self.adapters = Adapters(
            *(self._inner.layers, shape.first, shard), dtype=dtype, device=device
        )
        self.lanes = Lanes(
            shape.last - shape.first,
            shape.lanes,
            config.num_key_value_heads,
            shape.positions,
            head_size(config),
            dtype=dtype,
            device=device,
        )

    @property
    def is_whole(self) -> bool:
        """Whether it can compute: all of its processes are here."""
        return True

    @torch.inference_mode()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens.

        Args:
            tokens: `[rows]`.

        Returns:
            `[rows, hidden]`.
        """
        found: torch.Tensor = self._inner.embed_tokens(tokens.to(self.device))
        return found

    @torch.inference_mode()
    def forward(
        self, hidden: torch.Tensor, segments: Sequence[Segment]
    ) -> torch.Tensor:
        """Return hidden states after the stage's layers.

        Args:
            hidden: `[rows, hidden]`.
            segments: Whose rows they are.

        Returns:
            `[rows, hidden]`.
        """
        with self.adapters.lock:
            return self._forward(hidden, segments)

    def _forward(
        self, hidden: torch.Tensor, segments: Sequence[Segment]
    ) -> torch.Tensor:
        for s in segments:
            if s.source >= 0:
                self.lanes.copy(s.source, s.lane, s.shared)
        self.adapters.select(segments)
        rows = Rows.of(segments, self.lanes)
        states = hidden.unsqueeze(0)
        places = rows.position.unsqueeze(0)
        turns = self._turns(states, places)
        for number, layer in enumerate(self._inner.layers):
            kind = self._types[number] if self._types else ""
            states = layer(
                states,
                position_embeddings=turns.get(kind, turns.get("")),
                attention_mask=None,
                position_ids=places,
                past_key_values=None,
                rows=rows,
            )
        return states.squeeze(0)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of some rows.

        Args:
            hidden: `[rows, hidden]`, after the last layer.

        Returns:
            `[rows, vocabulary]`, float32.
        """
        assert self._head is not None, "only the last stage has the head"
        found: torch.Tensor = self._head(self._inner.norm(hidden)).float()
        return found if self._cap is None else torch.tanh(found / self._cap) * self._cap

    def _turns(self, states: torch.Tensor, places: torch.Tensor) -> dict[str, Any]:
        """Return the rotations of positions, by the type of the layer."""
        rotary = self._inner.rotary_emb
        if hasattr(rotary, "layer_types"):
            kinds = dict.fromkeys(self._types or ())
            return {kind: rotary(states, places, kind) for kind in kinds}
        return {"": rotary(states, places)}


def _check(config: Any, shape: Shape) -> None:
    if config.model_type not in FAMILIES:
        raise ConfigurationError(
            f"models of the family {config.model_type!r} cannot be split: butterfly "
            f"knows {', '.join(FAMILIES)}."
        )
    if not 0 <= shape.first < shape.last <= config.num_hidden_layers:
        raise ConfigurationError(
            f"there are no layers {shape.first} to {shape.last}: the model has "
            f"{config.num_hidden_layers}."
        )


@dataclass(frozen=True, slots=True)
class Tensors:
    """What the modules of a stage are filled with.

    Args:
        checkpoint: Where the tensors are.
        dtype: What they are turned into.
        device: Where they go.
        shard: The part of each layer that is wanted, None for all of it.
    """

    checkpoint: Checkpoint
    dtype: torch.dtype
    device: str
    shard: Shard | None = None

    def load(self, module: nn.Module, prefix: str) -> None:
        """Give a module its tensors.

        Args:
            module: The module.
            prefix: What their names begin with in the checkpoint.
        """
        names = {name: prefix + name for name, _ in module.named_parameters()}
        found = self.checkpoint.tensors(names.values(), self.dtype)
        cut = self.shard.cut if self.shard is not None else lambda _, tensor: tensor
        state = {n: cut(n, found[full]).to(self.device) for n, full in names.items()}
        module.load_state_dict(state, strict=False, assign=True)
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def _fill(
    model: Any, tensors: Tensors, shape: Shape, is_first: bool, is_last: bool
) -> None:
    """Give the modules of a stage their tensors, and drop the others."""
    inner, device = model.get_decoder(), tensors.device
    checkpoint = tensors.checkpoint
    prefix = _prefix(checkpoint)
    inner.rotary_emb = type(inner.rotary_emb)(config=inner.config).to(device)
    parts: dict[str, nn.Module] = {
        f"{prefix}layers.{shape.first + n}.": m for n, m in enumerate(inner.layers)
    }
    if is_first:
        parts[f"{prefix}embed_tokens."] = inner.embed_tokens
    else:
        inner.embed_tokens = None
    if is_last:
        parts[f"{prefix}norm."] = inner.norm
        tied = "lm_head.weight" not in checkpoint.names
        own = f"{prefix}embed_tokens." if tied else "lm_head."
        tensors.load(model.get_output_embeddings(), own)
    else:
        inner.norm = None
    for name, module in parts.items():
        _settle(model, module, device)
        tensors.load(module, name)


def _settle(model: Any, module: nn.Module, device: str) -> None:
    """Compute the buffers of a module that no checkpoint has, such as scales."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(buffer, device=device))
        model._init_weights(part)  # of weights too, but those have no memory yet


def _prefix(checkpoint: Checkpoint) -> str:
    """Return what the names of the decoder's tensors begin with."""
    for name in checkpoint.names:
        place = name.find("layers.0.")
        if place >= 0:
            return name[:place]
    raise ConfigurationError(f"{checkpoint.folder} has no decoder layers.")
