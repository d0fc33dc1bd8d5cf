"""What is taken from transformers: configurations, tokenizers, modules, GGUF.

The only file that imports it, and only when something is asked for: it takes seconds.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from butterfly.errors import ConfigurationError

WEIGHTS = "model.safetensors"
_UNREADABLE = (OSError, ValueError, KeyError, ImportError)


def read_config(folder: Path) -> Any:
    """Return the configuration of the text model in a folder.

    Args:
        folder: Where config.json is.

    Raises:
        ConfigurationError: If it is of no known model.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    try:
        config = AutoConfig.from_pretrained(folder)
    except _UNREADABLE as exc:
        raise ConfigurationError(f"{folder} cannot be read: {exc}") from exc
    return config.get_text_config()


def head_size(config: Any) -> int:
    """Return how many numbers an attention head has.

    Args:
        config: The configuration.
    """
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder.

    Args:
        folder: Where tokenizer.json is.

    Raises:
        ConfigurationError: If there is none.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    try:
        return AutoTokenizer.from_pretrained(folder)
    except _UNREADABLE as exc:
        raise ConfigurationError(
            f"{folder} has no tokenizer that can be read: {exc}"
        ) from exc


def empty_model(
    config: Any, first: int, last: int, attention: str, attend: Callable[..., Any]
) -> Any:
    """Return a model with some of its layers, on the meta device: without memory.

    Args:
        config: The configuration of the whole model.
        first: The first layer; it will have the index 0.
        last: The layer after the last one.
        attention: The name of the attention function.
        attend: The function.
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.modeling_utils import (  # noqa: PLC0415
        ALL_ATTENTION_FUNCTIONS,
    )

    ALL_ATTENTION_FUNCTIONS.register(attention, attend)
    own = copy.deepcopy(config)
    own.num_hidden_layers = last - first
    if getattr(own, "layer_types", None):
        own.layer_types = config.layer_types[first:last]
    own.use_cache = False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(own, attn_implementation=attention)
    return model.eval()


def dequantise(file: Path, folder: Path) -> None:
    """Write a GGUF file as config, tokenizer and float32 safetensors.

    Args:
        file: The GGUF file.
        folder: Where to write.

    Raises:
        ConfigurationError: If it cannot be converted.
    """
    from safetensors.torch import save_file  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    where: dict[str, Any] = {"gguf_file": file.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **where
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **where)
    except _UNREADABLE as exc:
        raise ConfigurationError(f"{file} cannot be converted: {exc}") from exc
    tokenizer.save_pretrained(folder)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config["architectures"] = [type(model).__name__]
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text, "utf-8")
    tied = config.get("tie_word_embeddings")
    state = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
