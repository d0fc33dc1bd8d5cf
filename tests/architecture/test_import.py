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
    InferenceGraph GraphNode Proxy ResourceConfig EndpointConfig LLMRequest LLMResponse
    Budget RetryPolicy
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
import inf_engine
print(json.dumps([time.process_time() - before, sorted(sys.modules)]))
"""

CPU_SECONDS = 0.15


def probe(cache: Path) -> tuple[float, list[str]]:
    """Import the face in a fresh interpreter; return CPU seconds and modules.

    Args:
        cache: Where compiled modules are kept, so that only the first time compiles.
    """
    command = [sys.executable, "-W", "error", "-c", PROBE]
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
    """A fresh `import inf_engine` takes at most 0.15 CPU-seconds (best of five)."""
    assert min(probe(tmp_path)[0] for _ in range(6)) <= CPU_SECONDS


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
