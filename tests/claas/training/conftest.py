"""One tiny model for all tests here, trained once in seconds.

Importing torch and transformers takes seconds, so this process does it once.
"""

import fcntl
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from claas.base import Base

NEEDS = ("torch", "transformers", "peft", "fastapi", "pydantic_settings", "httpx")
MISSING = [name for name in NEEDS if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model on disk; test processes that run side by side share it."""
    from tests.claas.training.tiny import make_tiny  # noqa: PLC0415

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / "tiny-model"
        if not folder.is_dir():
            make_tiny(root / "tiny-made").rename(folder)
    return folder


@pytest.fixture(scope="session")
def base(tiny_folder: Path) -> "Base":
    """The model in this process."""
    from claas.base import Base  # noqa: PLC0415

    return Base.load(str(tiny_folder), threads=1)


@pytest.fixture(scope="session")
def fresh(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes nothing yet."""
    from tests.claas.training.tiny import write_lora  # noqa: PLC0415

    return write_lora(tmp_path_factory.mktemp("loras"), tiny_folder)
