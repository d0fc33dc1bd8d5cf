"""What is taken from transformers, PEFT, butterfly: models, adapters, files of tensors.

The only file that imports them, and only when something is asked for: it takes seconds.
"""

import json
import os
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from claas.errors import ConfigurationError
from claas.hub import hub_folder, is_hub_name

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError)


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as a safetensors file, the same tensors as the same bytes.

    Args:
        file: Where to.
        tensors: By name.
    """
    from safetensors.torch import save_file  # noqa: PLC0415

    plain = {
        name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)
    }
    save_file(plain, os.fspath(file), metadata={"format": "pt"})


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    Args:
        file: The file.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}
    except Exception as exc:  # noqa: BLE001 - safetensors has errors of its own
        raise ConfigurationError(
            f"{file} cannot be read ({type(exc).__name__}): it is damaged, or no "
            "safetensors file."
        ) from exc


def read_model(model: str, dtype: torch.dtype, cache: Path | None) -> tuple[Any, Any]:
    """Return a model and its tokenizer.

    Args:
        model: A folder, a GGUF file (converted once), a model of the Hub, or
            ``"smollm2"``.
        dtype: Of its weights.
        cache: Where converted models are kept; None for butterfly's own place.

    Raises:
        ConfigurationError: If it is not there or cannot be loaded.
    """
    from tqdm import tqdm  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a kill
    logging.disable_progress_bar()
    folder = folder_of(model, cache)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return loaded, AutoTokenizer.from_pretrained(folder)
    except _UNREADABLE as exc:
        raise ConfigurationError(
            f"the base model in {folder} cannot be loaded: {exc}"
        ) from exc


def folder_of(model: str, cache: Path | None = None) -> Path:
    """Return the folder of a model, fetched or converted if need be.

    Args:
        model: A folder, a GGUF file, a model of the Hub (``org/name@revision``), or
            ``"smollm2"``.
        cache: Where converted models are kept; None for butterfly's own place.

    Raises:
        ConfigurationError: If there is no such model.
    """
    from butterfly.engine.weights import Checkpoint  # noqa: PLC0415
    from butterfly.errors import ButterflyError  # noqa: PLC0415

    here = hub_folder(model) if is_hub_name(model) else model
    try:
        return Checkpoint.of(str(here), cache=cache).folder
    except ButterflyError as exc:
        raise ConfigurationError(str(exc)) from exc


def check_fits(model: Any, folder: Path) -> None:
    """Refuse an adapter of another model; PEFT would leave half of it in ours.

    Args:
        model: The model, without PEFT's own around it.
        folder: The adapter.

    Raises:
        ConfigurationError: If it is no LoRA, or a size differs.
    """
    try:
        kind = json.loads((folder / CONFIG).read_text("utf-8"))["peft_type"]
    except _UNREADABLE as exc:
        raise ConfigurationError(f"{folder / CONFIG} cannot be read: {exc!r}") from exc
    if kind != "LORA":
        raise ConfigurationError(
            f"{folder} is of the kind {kind!r}: only LORA is known."
        )
    for name, tensor in read_tensors(folder / WEIGHTS).items():
        path, _, half = name.partition(".lora_")
        try:
            layer = model.get_submodule(path.removeprefix("base_model.model."))
            wide = layer.in_features if half[:1] == "A" else layer.out_features
        except AttributeError:
            wide = None
        if wide != tensor.shape[1 if half[:1] == "A" else 0]:
            raise ConfigurationError(
                f"the adapter in {folder} does not fit the base model: {name} is "
                f"{list(tensor.shape)}, the layer has {wide or 'no place for it'}."
            )


def with_adapter(model: Any, key: str, folder: Path) -> Any:
    """Return the model with an adapter more in it.

    Args:
        model: The model, PEFT's or plain.
        key: What PEFT calls the adapter.
        folder: Its files.
    """
    from peft import PeftModel  # noqa: PLC0415

    options: dict[str, Any] = {"is_trainable": True, "low_cpu_mem_usage": True}
    with warnings.catch_warnings():  # PEFT 0.21 calls what transformers 5.23 renamed
        warnings.simplefilter("ignore", FutureWarning)
        if isinstance(model, PeftModel):
            model.load_adapter(folder, key, **options)
            return model
        return PeftModel.from_pretrained(model, folder, key, **options).eval()
