"""The Hugging Face Hub: a model by its name, as files in a folder of this machine.

``org/name`` or ``org/name@revision``. The Hub's own cache keeps what was loaded
(``HF_HOME``), so a second time, or offline (``HF_HUB_OFFLINE=1``), nothing is fetched.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from claas.errors import ConfigurationError

FILES = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")
"""What a model and its tokenizer consist of."""

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def is_hub_name(model: str) -> bool:
    """Say whether a name can be one of the Hub's, and is no file or folder here.

    Args:
        model: The name.
    """
    is_name = _NAME.fullmatch(model) is not None
    return is_name and not Path(model).expanduser().exists()


def hub_folder(model: str, files: Sequence[str] = FILES) -> Path:
    """Return the folder of a model of the Hub; what is not here yet is fetched.

    Args:
        model: ``org/name`` or ``org/name@revision``.
        files: Patterns of the names of the files; none in folders are fetched.

    Raises:
        ConfigurationError: If it is not to be had.
    """
    name, _, revision = model.partition("@")
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415

        found = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(files),
            ignore_patterns=["*/*"],
        )
    except (ImportError, OSError, ValueError) as exc:
        raise ConfigurationError(
            f"the base model {model!r} is neither a folder nor to be had from the "
            f"Hugging Face Hub ({type(exc).__name__}): check the name and the "
            "revision; offline (HF_HUB_OFFLINE) it must lie in the Hub's cache "
            "(HF_HOME); a gated one needs HF_TOKEN."
        ) from exc
    return Path(found)
