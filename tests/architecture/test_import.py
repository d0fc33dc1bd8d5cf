"""What `import inf_engine` gives, and what it does not load."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import inf_engine
from inf_engine import errors

NAMES = """
    Engine ExecutionSettings InferenceModule LLMInference Parameter ParameterList
    ParameterDict ModuleList ModuleDict Sequential op trace Result RunRecord
    InferenceGraph GraphNode Image Proxy ResourceConfig EndpointConfig LLMRequest
    LLMResponse Budget RetryPolicy
""".split()

HEAVY = """
    aiohttp anthropic fastapi httpx openai peft pydantic ray rich tenacity torch
    transformers xllamacpp yaml
    doctest email http.client http.server multiprocessing sqlite3 unittest xml.dom
    inf_engine.cli inf_engine.optimization inf_engine.testing
""".split()

PROBE = """
import json, sys, time
before = time.process_time()
import {module}
print(json.dumps([time.process_time() - before, sorted(sys.modules)]))
"""

AS_LONG = 4.7
"""How many times as long as `import asyncio` it may take; it takes 3.4 times."""


def probe(cache: Path, module: str = "inf_engine") -> tuple[float, list[str]]:
    """Import a module in a fresh interpreter; return CPU seconds and modules.

    Args:
        cache: Where compiled modules are kept, so that only the first time compiles.
        module: Its name.
    """
    code = PROBE.format(module=module)
    command = [sys.executable, "-W", "error", "-c", code]
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environ
    )
    seconds, modules = json.loads(done.stdout)
    return seconds, modules


def error_names() -> list[str]:
    """Return the names of the exception classes of `errors.py`."""
    classes = inspect.getmembers(errors, inspect.isclass)
    return [n for n, c in classes if issubclass(c, errors.InfEngineError)]


def test_import_loads_nothing_heavy(tmp_path: Path) -> None:
    """A fresh `import inf_engine` loads no HTTP library, SDK or extra."""
    _, modules = probe(tmp_path)
    assert [name for name in HEAVY if name in modules] == []


def test_import_is_quick(tmp_path: Path) -> None:
    """It takes a few times what `import asyncio` does; seconds are a benchmark's."""
    names = ("inf_engine", "asyncio")
    rounds = [[probe(tmp_path, name)[0] for name in names] for _ in range(6)]
    ours, theirs = (min(seconds) for seconds in zip(*rounds, strict=True))
    assert ours <= AS_LONG * theirs


def test_all_is_the_contract() -> None:
    """`__all__` is sorted and is the list of the design plus every error."""
    assert list(inf_engine.__all__) == sorted({*NAMES, *error_names()})


def test_every_name_is_importable() -> None:
    """Each name of the contract is an attribute of the face."""
    names = sorted({*NAMES, *error_names()})
    assert [name for name in names if not hasattr(inf_engine, name)] == []


def test_nothing_else_is_public() -> None:
    """The face has no public name, submodules aside, that `__all__` leaves out."""
    public = {
        name
        for name, value in vars(inf_engine).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(inf_engine.__all__)


def test_what_is_public_says_what_it_is() -> None:
    """Every public class and function has a docstring."""
    silent = [n for n in inf_engine.__all__ if not getattr(inf_engine, n).__doc__]
    assert silent == []
