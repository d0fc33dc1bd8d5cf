"""The files of an adapter as PEFT writes them: which they are, and a fresh adapter.

A fresh adapter has B = 0, so it changes nothing until it is trained. Its shapes come
from the base's ``config.json`` alone; no weights are read, and neither torch nor
transformers. The width of the heads is ``head_dim`` where the config has one: it is not
``hidden_size / num_attention_heads`` in every model (gemma, qwen3).
"""

import json
import math
import random
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claas.errors import ConfigurationError, StorageError
from claas.hub import hub_folder, is_hub_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files that make an adapter."""

OPTIMIZER = "optimizer.safetensors"
"""The optimizer's state, beside them."""

TEACHER = "teacher.safetensors"
"""The moving average of the weights that teaches, if one does."""

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers that can be adapted; all of them by default."""


_HEAD_DIMS = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
"""Of families whose config may leave out a head_dim that is no quotient."""

_FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("smollm3", "olmo2", "granite"),
)


def base_config(base_model_name: str) -> dict[str, Any]:
    """Return the config of a base model.

    Args:
        base_model_name: Its folder, or its name on the Hugging Face Hub, from where
            ``config.json`` is fetched once if it is not in the cache.

    Raises:
        ConfigurationError: If there is none.
    """
    path = Path(base_model_name) / "config.json"
    if is_hub_name(base_model_name):
        path = hub_folder(base_model_name, ("config.json",)) / "config.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the base model {base_model_name!r} has no readable config.json: give the "
            "folder of a transformers checkpoint, or a name on the Hub."
        ) from error
    return found


def layer_shapes(
    config: Mapping[str, Any], targets: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return outputs and inputs of each layer that is adapted, by the layer's name.

    Args:
        config: The base's ``config.json``.
        targets: Names of `TARGETS`.

    Raises:
        ConfigurationError: If the family is not known, the config lacks a size, or a
            target is unknown.
    """
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ConfigurationError(
            f"the layers of a base model of the type {family!r} are not known here; "
            f"known are {', '.join(_FAMILIES)}. Make the adapter with PEFT and store "
            "it with save_lora."
        )
    unknown = [name for name in targets if name not in TARGETS]
    if unknown or not targets:
        raise ConfigurationError(
            f"target_modules {list(targets)}: choose from {', '.join(TARGETS)}."
        )
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    wide = _size(config, "intermediate_size")
    head = config.get("head_dim") or _HEAD_DIMS.get(str(family)) or hidden // heads
    own = heads if family == "llama" else None
    keys = head * _size(config, "num_key_value_heads", own)
    kinds = {
        **{"q_proj": (head * heads, hidden), "k_proj": (keys, hidden)},
        **{"v_proj": (keys, hidden), "o_proj": (hidden, head * heads)},
        **{"gate_proj": (wide, hidden), "up_proj": (wide, hidden)},
        "down_proj": (hidden, wide),
    }
    parts = dict.fromkeys(TARGETS[:4], "self_attn") | dict.fromkeys(TARGETS[4:], "mlp")
    return {
        f"model.layers.{layer}.{parts[name]}.{name}": kinds[name]
        for layer in range(_size(config, "num_hidden_layers"))
        for name in TARGETS
        if name in targets
    }


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a size of the config."""
    found = config.get(name) or default
    if not isinstance(found, int) or found < 1:
        raise ConfigurationError(
            f"the base's config.json does not say {name}: found {found!r}."
        )
    return found


def write_fresh(
    folder: Path,
    base_model_name: str,
    shapes: Mapping[str, tuple[int, int]],
    rank: int,
    alpha: float,
    seed: int,
) -> None:
    """Write an adapter that changes nothing: A as PEFT draws it, B = 0.

    Args:
        folder: Where to.
        base_model_name: The base, as the config names it.
        shapes: As `layer_shapes` gives them.
        rank: The inner size.
        alpha: The scale is alpha / rank.
        seed: Of A's numbers, uniform in ±1/√inputs.
    """
    chance = random.Random(seed)
    tensors: dict[str, tuple[tuple[int, int], array]] = {}
    for name, (outputs, inputs) in shapes.items():
        bound = 1 / math.sqrt(inputs)
        numbers = (chance.uniform(-bound, bound) for _ in range(rank * inputs))
        path, empty = f"base_model.model.{name}", bytes(4 * outputs * rank)
        tensors[f"{path}.lora_A.weight"] = (rank, inputs), array("f", numbers)
        tensors[f"{path}.lora_B.weight"] = (outputs, rank), array("f", empty)
    _write_tensors(folder / WEIGHTS, tensors)
    config = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"},
        **{"base_model_name_or_path": base_model_name, "inference_mode": True},
        **{"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0},
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in shapes}),
        **{"fan_in_fan_out": False, "use_rslora": False, "use_dora": False},
        **{"modules_to_save": None, "init_lora_weights": True},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _write_tensors(
    path: Path, tensors: Mapping[str, tuple[tuple[int, int], array]]
) -> None:
    """Write a file of safetensors: the length of a JSON header, it, and the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, numbers) in tensors.items():
        start, end = end, end + 4 * len(numbers)
        entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        header[name] = entry
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    with open(path, "xb") as file:
        file.write(struct.pack("<Q", len(said)) + said)
        for _, numbers in tensors.values():
            if sys.byteorder == "big":
                numbers.byteswap()
            file.write(numbers)


def check_adapter(folder: Path) -> None:
    """Refuse a folder that is no whole adapter; the weights themselves are not read.

    Args:
        folder: The folder.

    Raises:
        StorageError: If a file is missing, cut off or no such file.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        is_whole = isinstance(config, dict) and _is_whole(folder / WEIGHTS)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{folder} is no adapter: {CONFIG} or {WEIGHTS} cannot be read "
            f"({type(error).__name__}). Write both with PEFT's save_pretrained."
        ) from error
    if not is_whole:
        raise StorageError(
            f"{folder} is no adapter: {WEIGHTS} is damaged or cut off. Write it again."
        )


def _is_whole(path: Path) -> bool:
    """Whether a file of safetensors is as long as its header says."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            return False
        header = json.loads(file.read(length))
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(e["data_offsets"][1] for e in entries or ()) == size
