"""`Adapters`: LoRA adapters of a stage, different ones in one frame.

Each row of a frame belongs to one sequence, and each sequence to one adapter or none.
So a linear layer computes all rows at once, and then adds, for each run of rows with
the same adapter, what its two small matrices give:

    y[run] += scale * (x[run] A^T) B^T        (arXiv:2106.09685, eq. 3)

Adapters have numbers that are never used again, so a version that was loaded later
cannot be taken for an earlier one, in a lane or in a frame that is on its way.
"""

import json
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from butterfly.communication.frames import Segment
from butterfly.engine.shard import Shard
from butterfly.errors import ConfigurationError

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ODD = (
    *("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"),
    *("layer_replication", "alora_invocation_tokens"),
)
_NAME = re.compile(r"layers\.(\d+)\.(.+)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of a PEFT adapter's configuration counts.

    Args:
        rank: The rank of its matrices.
        scale: What their product is multiplied with.
    """

    rank: int
    scale: float

    @classmethod
    def read(cls, folder: Path) -> "AdapterConfig":
        """Read the configuration of an adapter.

        Args:
            folder: Where PEFT saved it.

        Raises:
            ConfigurationError: If it is no LoRA adapter, or one with parts that are not
                supported.
        """
        try:
            told = json.loads((folder / _CONFIG).read_text("utf-8"))
            odd = [name for name in _ODD if told.get(name)]
        except (OSError, ValueError, AttributeError) as exc:
            raise ConfigurationError(
                f"there is no adapter in {folder}: name a folder with {_CONFIG} and "
                f"{_WEIGHTS}, as PEFT saves them."
            ) from exc
        odd += ["bias"] if told.get("bias", "none") != "none" else []
        if told.get("peft_type") != "LORA" or odd:
            raise ConfigurationError(
                f"the adapter in {folder} cannot be served: it must be a plain LORA "
                f"adapter, and has {odd or told.get('peft_type')}."
            )
        try:
            rank, alpha = int(told["r"]), float(told["lora_alpha"])
            root = math.sqrt(rank) if told.get("use_rslora") else rank
            return cls(rank, alpha / root)
        except (KeyError, TypeError, ValueError, ArithmeticError) as exc:
            raise ConfigurationError(
                f"{folder}/{_CONFIG} has no 'r' and 'lora_alpha' that can be used: "
                "save the adapter again."
            ) from exc


class Adapters:
    """The adapters of a stage.

    Args:
        layers: The stage's layers.
        first: The number that the first of them has in the model.
        shard: The part of each layer that they are, None for all of it.
        dtype: Of the matrices.
        device: Where they are.
    """

    def __init__(
        self,
        layers: nn.ModuleList,
        first: int,
        shard: Shard | None = None,
        *,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self._layers, self._first, self._shard = layers, first, shard
        self._dtype, self._device = dtype, device
        self.lock = threading.Lock()  # held while a frame is computed
        self._known: set[int] = set()
        self._hooked: dict[nn.Module, dict[int, tuple[torch.Tensor, torch.Tensor]]] = {}
        self._runs: list[tuple[int, int, int]] = []

    @property
    def numbers(self) -> list[int]:
        """The numbers of those that are loaded."""
        return sorted(self._known)

    def load(self, number: int, folder: Path) -> None:
        """Load an adapter's matrices for the stage's layers.

        Args:
            number: The number that segments will name.
            folder: Where PEFT saved it.

        Raises:
            ConfigurationError: If it does not fit the model. Nothing is loaded then.
        """
        config = AdapterConfig.read(folder)
        pairs: dict[nn.Module, dict[str, torch.Tensor]] = {}
        try:
            with safe_open(folder / _WEIGHTS, framework="pt") as opened:
                for name in opened.keys():
                    module, which = self._target(name, folder)
                    if module is not None:
                        tensor = self._cut(name, opened.get_tensor(name))
                        tensor = tensor.to(self._device, self._dtype)
                        pairs.setdefault(module, {})[which] = tensor
        except (OSError, SafetensorError) as exc:
            raise ConfigurationError(
                f"{folder}/{_WEIGHTS} cannot be read: {exc}"
            ) from exc
        checked = {m: _checked(m, pair, folder) for m, pair in pairs.items()}
        with self.lock:
            for module, (down, up) in checked.items():
                if module not in self._hooked:
                    self._hooked[module] = {}
                    # before the sum over the parts of a layer
                    module.register_forward_hook(self._add, prepend=True)
                self._hooked[module][number] = down.T, up.T * config.scale
            self._known.add(number)

    def unload(self, number: int) -> None:
        """Forget an adapter.

        Args:
            number: Its number.
        """
        with self.lock:
            self._known.discard(number)
            for table in self._hooked.values():
                table.pop(number, None)

    def select(self, segments: Sequence[Segment]) -> None:
        """Say whose rows come next.

        Args:
            segments: The segments of the frame.

        Raises:
            ConfigurationError: If one names an adapter that is not here.
        """
        self._runs, row = [], 0
        for s in segments:
            if s.adapter and s.adapter not in self._known:
                raise ConfigurationError(f"adapter {s.adapter} is not loaded here.")
            last = self._runs[-1] if self._runs else None
            if last and last[2] == s.adapter and last[1] == row:
                self._runs[-1] = last[0], row + s.length, s.adapter
            elif s.adapter:
                self._runs.append((row, row + s.length, s.adapter))
            row += s.length

    def _add(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Add what the adapters of the frame's rows give, as a forward hook."""
        table = self._hooked[module]
        for first, last, number in self._runs:
            if number in table:
                down, up = table[number]
                output[:, first:last] += args[0][:, first:last] @ down @ up
        return output

    def _cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a matrix that is for this part of its layer."""
        found = _NAME.search(name)
        if self._shard is None or found is None:
            return tensor
        return self._shard.cut(f"{found[2]}.lora_{found[3]}", tensor)

    def _target(self, name: str, folder: Path) -> tuple[nn.Module | None, str]:
        """Return the layer that a matrix is for, None if another stage has it."""
        found = _NAME.search(name)
        if found is None:
            raise ConfigurationError(
                f"the adapter in {folder} changes {name!r}: only linear layers inside "
                "decoder layers can be adapted."
            )
        layer, path, which = int(found[1]) - self._first, found[2], found[3]
        if not 0 <= layer < len(self._layers):
            return None, which
        try:
            module = self._layers[layer].get_submodule(path)
        except AttributeError as exc:
            raise ConfigurationError(
                f"the adapter in {folder} is for another model: layer {found[1]} has "
                f"no {path!r}."
            ) from exc
        return module, which


def _checked(
    module: nn.Module, pair: dict[str, torch.Tensor], folder: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices of a layer, if they fit it."""
    weight: Any = module.weight
    down, up = pair.get("A"), pair.get("B")
    fits = (
        down is not None
        and up is not None
        and (up.shape[0], down.shape[1]) == tuple(weight.shape)
        and down.shape[0] == up.shape[1]
    )
    if not fits or down is None or up is None:
        raise ConfigurationError(
            f"the adapter in {folder} is for another model: its matrices do not fit a "
            f"layer of {weight.shape[0]} x {weight.shape[1]}."
        )
    return down, up
