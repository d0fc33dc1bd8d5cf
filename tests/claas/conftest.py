"""Claas in front of a small vLLM, for the tests of its API."""

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

NEEDS = ("fastapi", "uvicorn", "pydantic_settings", "typer", "safetensors", "regex")
MISSING = [name for name in NEEDS if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []

if not MISSING:
    from tests.claas.api_helpers import Claas, FakeVllm, claas_at, serving

    from claas.database import Database


@pytest.fixture
def opened() -> Iterator[Callable[[Path], "Database"]]:
    """Opens databases, and closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda path: stack.enter_context(contextlib.closing(Database(path)))


@pytest.fixture
def upstream() -> "FakeVllm":
    """The inference server."""
    return FakeVllm()


@pytest.fixture
def upstream_url(upstream: "FakeVllm") -> Iterator[str]:
    """Where it is."""
    with serving(upstream.app()) as url:
        yield url


@pytest.fixture
def claas(tmp_path: Path, upstream: "FakeVllm", upstream_url: str) -> Iterator["Claas"]:
    """Claas in front of it."""
    with claas_at(tmp_path, upstream, upstream_url) as found:
        yield found


@pytest.fixture
def ann(claas: "Claas") -> Iterator[httpx.Client]:
    """A user with the adapter ``ann/bot``."""
    with claas.client("ann") as found:
        assert found.post("/v1/lora", json={"lora": "ann/bot"}).status_code == 201
        yield found


@pytest.fixture
def bob(claas: "Claas") -> Iterator[httpx.Client]:
    """Another user, who has ``bob/bot``."""
    with claas.client("bob") as found:
        assert found.post("/v1/lora", json={"lora": "bob/bot"}).status_code == 201
        yield found
