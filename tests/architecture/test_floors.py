"""The floors of the package (design_docs/architecture.md), held by reading its source.

A *part* is what stands directly under ``inf_engine``: a file or a folder. The rules:

1. An import points to a part on the same floor or below, and no files import each
   other in a circle. Imports under ``if TYPE_CHECKING`` count, calls do not.
2. The two towers know nothing of each other: what the user writes, and how a request
   reaches a provider. Both may use floor 0; they meet on the floors above them.
3. Imports are absolute and at the top of the file. The one exception is `LATE`: what
   is heavy or optional (one module of Python itself, too) is imported inside the
   function that needs it, by one file. `testing/` ships a server of its own and may
   do so a second time. ``if TYPE_CHECKING`` may name it anywhere: it loads nothing.
4. Nobody inside the package imports the face, ``inf_engine`` itself.
5. ``butterfly`` has a table of its own (design_docs/butterfly.md). It never imports
   ``inf_engine``, its heavy libraries may stand at the top of a file, and its plain
   parts need nothing but Python.
6. Files and functions are short. A docstring is not counted into its function.

Each rule is a function from sources to sentences, so that the rules are tested too,
on packages made up here. A sentence is what a contributor reads.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src"

FLOORS: dict[int, tuple[str, ...]] = {
    0: ("errors", "types", "tree", "tasks", "startup", "quick"),
    1: (
        *("dispatch", "naming", "parameter", "schema", "tools", "template"),
        *("images", "messages", "demos", "pages", "clients", "journal"),
    ),
    2: ("module", "llm", "resources"),
    3: ("graph", "svg", "report", "containers", "functional"),
    4: ("tracing", "record"),
    5: ("execution", "optimization"),
    6: ("serving", "scale", "testing"),
    7: ("__init__", "__main__", "cli"),
}

USER_TOWER = (
    *("dispatch", "naming", "parameter", "module", "llm", "schema", "tools"),
    *("template", "images", "messages", "demos", "graph", "containers", "functional"),
    *("tracing", "record", "pages", "svg", "report"),
)
PROVIDER_TOWER = ("clients", "resources", "journal")

LATE = (
    *("aiohttp", "aiohttp.web", "anthropic", "httpx", "openai", "ray", "rich"),
    *("genai_prices", "mlflow", "opentelemetry", "sqlite3", "tensorboard", "xllamacpp"),
    "pyarrow",
    *("pydantic", "pydantic_core", "typing_extensions"),  # they come together
    *("tenacity", "yaml", "urllib.request", "email.utils"),
)
TWICE = "testing"
EARLY = ("greenlet",)

FILE_LINES = 500
BODY_LINES = 50
BODY_LINES_P90 = 30

BUTTERFLY_FLOORS: dict[int, tuple[str, ...]] = {
    0: ("errors",),
    1: ("partitioning", "communication", "config", "monitoring", "bench", "web"),
    2: ("engine", "scheduling"),
    3: ("cluster",),
    4: ("api",),
    5: ("__init__", "__main__", "cli", "commands"),
}
BUTTERFLY_PROCESSES = (
    *("butterfly.api.server", "butterfly.cluster.node", "butterfly.cluster.probe"),
)  # planning
# needs no torch, so the command line imports what does only where it starts it
BUTTERFLY_EARLY = (
    *("torch", "numpy", "safetensors", "fastapi", "starlette", "pydantic"),
    *("prometheus_client", "jinja2", "llguidance", "uvicorn"),
)

CLAAS_FLOORS: dict[int, tuple[str, ...]] = {
    0: ("errors", "types", "names"),
    1: (
        *("config", "sdpo_loss", "volumes", "storage", "receipts", "ledger"),
        *("serving", "hints", "peft_files", "versions", "parts", "database"),
        *("checks", "patterns", "prompts", "intervals", "library", "tuning", "hub"),
        *("words", "probes", "ratings", "tables"),
    ),
    2: ("base", "teacher", "followers", "differences"),
    3: ("anchor", "learner", "explain", "gate", "likelihoods"),
    4: (
        *("updates", "lessons", "bench", "loaded", "forgetting", "watch", "worker"),
        "engines",
    ),
    5: ("api", "pages", "jobs", "web"),
    6: ("__init__", "__main__", "cli"),
}
# commands that only ask a server do not load it
CLAAS_PROCESSES = (*("claas.web.server", "claas.web.teaching", "claas.differences"),)

Sources = dict[str, str]


@dataclass(frozen=True)
class Package:
    """An import package and its tables.

    Args:
        face: Its name.
        floors: Its parts, by floor.
        early: Libraries that its files may import at the top.
        late: Libraries that are imported in the function that needs them.
        plain: Parts that import nothing but Python's own.
        page: The document that draws the floors.
    """

    face: str
    floors: dict[int, tuple[str, ...]]
    early: tuple[str, ...]
    late: tuple[str, ...]
    plain: tuple[str, ...]
    page: str

    @property
    def floor_of(self) -> dict[str, int]:
        """The floor of each part."""
        return {part: floor for floor, parts in self.floors.items() for part in parts}


INF_ENGINE = Package("inf_engine", FLOORS, EARLY, LATE, (), "architecture.md")
BUTTERFLY = Package(
    face="butterfly",
    floors=BUTTERFLY_FLOORS,
    early=BUTTERFLY_EARLY,
    late=("transformers", "safetensors.torch", *BUTTERFLY_PROCESSES),
    plain=("errors", "partitioning"),
    page="butterfly.md",
)
CLAAS = Package(
    face="claas",
    floors=CLAAS_FLOORS,
    early=(
        *("torch", "safetensors", "fastapi", "starlette", "pydantic", "uvicorn"),
        *("pydantic_settings", "httpx", "typer", "regex", "butterfly.web"),
    ),
    late=(
        *("transformers", "peft", "modal", "safetensors.torch", "butterfly"),
        *("huggingface_hub", "tqdm"),
        *CLAAS_PROCESSES,
    ),
    plain=("errors", "types", "names"),
    page="claas.md",
)
PACKAGES = (INF_ENGINE, BUTTERFLY, CLAAS)


@dataclass(frozen=True)
class Import:
    """One imported module, and where it is imported.

    Args:
        file: The importing module, dotted and without the face (``tracing.proxy``).
        line: The line of the import.
        target: The imported module, dotted; with the face if it is ours.
        name: What is taken from it, empty for a plain ``import``.
        place: ``top``, ``late`` (in a function) or ``types`` (TYPE_CHECKING).
        level: The dots of a relative import.
    """

    file: str
    line: int
    target: str
    name: str
    place: str
    level: int

    @property
    def where(self) -> str:
        """The place in words."""
        return f"{self.file} line {self.line}"

    def library(self, package: Package) -> str:
        """Return the listed library that is imported, else the top-level package.

        A part of a late library may be an early one: ``butterfly.web`` for claas.
        """
        listed = sorted([*package.late, *package.early], key=len, reverse=True)
        names = [n for n in listed if f"{self.target}.".startswith(f"{n}.")]
        return names[0] if names else self.target.split(".")[0]


@cache
def read_package(folder: Path) -> Sources:
    """Return the source of each file, by dotted name; a folder's is ``a.__init__``."""
    files = sorted(folder.rglob("*.py"))
    names = [".".join(f.relative_to(folder).with_suffix("").parts) for f in files]
    return {n: f.read_text("utf-8") for n, f in zip(names, files, strict=True)}


def part_of(file: str) -> str:
    """Return the part that a file belongs to."""
    return file.split(".")[0]


def statements(body: list[ast.stmt], place: str) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every statement below `body` with the place it stands in."""
    for node in body:
        yield node, place
        inside = place
        if isinstance(node, ast.If) and place == "top":
            test = ast.unparse(node.test)
            if "TYPE_CHECKING" in test:
                inside = "types"
            elif "sys.version_info" not in test:
                inside = "late"
        elif place == "top":
            inside = "late"
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                yield from statements([child], inside)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                yield from statements(child.body, inside)


@cache
def parsed(text: str) -> ast.Module:
    """Return the tree of a source; most rules look at the same ones."""
    return ast.parse(text)


def imports_of(sources: Sources) -> list[Import]:
    """Return every import of the package, in order."""
    return [imp for file, text in sources.items() for imp in imports_in(file, text)]


@cache
def imports_in(file: str, text: str) -> tuple[Import, ...]:
    """Return the imports of a file, in order."""
    found = []
    for node, place in statements(parsed(text).body, "top"):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(file, node.lineno, alias.name, "", place, 0))
        elif isinstance(node, ast.ImportFrom):
            target, level = node.module or "", node.level
            for alias in node.names:
                found.append(
                    Import(file, node.lineno, target, alias.name, place, level)
                )
    return tuple(found)


def ours(sources: Sources, package: Package = INF_ENGINE) -> list[tuple[Import, str]]:
    """Return the imports between files of the package, with the imported file."""
    pairs = []
    for imp in imports_of(sources):
        target = imp.target.removeprefix(f"{package.face}.")
        if target == imp.target:
            continue
        candidates = (
            f"{target}.{imp.name}",
            f"{target}.{imp.name}.__init__",
            target,
            f"{target}.__init__",
        )
        file = next((c for c in candidates if c in sources), target)
        pairs.append((imp, file))
    return pairs


def unknown_files(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """Every file belongs to a part that stands in the table of floors."""
    return [
        f"{file} is on no floor: put {part_of(file)!r} into the floors of "
        f"{package.face} in this test, and into the drawing in "
        f"design_docs/{package.page}"
        for file in sources
        if part_of(file) not in package.floor_of
    ]


def upward_imports(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """An import points down or along a floor."""
    floors = package.floor_of
    return [
        f"{imp.where} imports {file}, from floor {floors[part_of(imp.file)]} up to "
        f"floor {floors[part_of(file)]}: move what both need down"
        for imp, file in ours(sources, package)
        if part_of(file) in floors
        and floors[part_of(file)] > floors.get(part_of(imp.file), 99)
    ]


def tower_crossings(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """The two towers know nothing of each other."""
    if package is not INF_ENGINE:
        return []
    towers = dict.fromkeys(USER_TOWER, "the user's")
    towers |= dict.fromkeys(PROVIDER_TOWER, "the provider's")
    return [
        f"{imp.where} imports {file}, from {towers[part_of(imp.file)]} tower into "
        f"{towers[part_of(file)]}: they meet in execution/ only"
        for imp, file in ours(sources, package)
        if part_of(imp.file) in towers
        and part_of(file) in towers
        and towers[part_of(imp.file)] != towers[part_of(file)]
    ]


def import_circles(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """No files import each other in a circle."""
    below: dict[str, list[str]] = {file: [] for file in sources}
    for imp, file in ours(sources, package):
        if file in below and file != imp.file:
            below[imp.file].append(file)
    while free := [f for f, deps in below.items() if not any(d in below for d in deps)]:
        for file in free:
            del below[file]
    if not below:
        return []
    start = next(iter(below))
    path = [start]
    while path.count(path[-1]) < 2:
        path.append(next(d for d in below[path[-1]] if d in below))
    circle = path[path.index(path[-1]) :]
    return [f"{' -> '.join(circle)} import each other: move what both need down"]


def face_imports(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """Nobody inside the package imports the face."""
    return [
        f"{imp.where} imports the face: name the file, "
        f"'from {package.face}.module import InferenceModule'"
        for imp in imports_of(sources)
        if imp.target == package.face
    ]


def misplaced_imports(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """Imports are absolute and at the top, what is heavy is imported late."""
    sentences = []
    for imp in imports_of(sources):
        if imp.level:
            sentences.append(f"{imp.where}: write the absolute name of the import")
        elif imp.place == "late" and imp.library(package) not in package.late:
            sentences.append(
                f"{imp.where} imports {imp.target} late: move it to the top of the file"
            )
        elif imp.place == "top" and imp.library(package) in package.late:
            sentences.append(
                f"{imp.where} imports {imp.target} at the top: import it in the "
                "function that needs it, it is heavy"
            )
    return sentences


def undeclared_libraries(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """What is imported is ours, Python's, or in the tables above."""
    own = {package.face, *sys.stdlib_module_names}
    known = {*own, *package.late, *package.early}
    return [
        f"{imp.where} imports {imp.library(package)}, which neither the late nor the "
        "early libraries in this test list: declare it there and in pyproject.toml, "
        "or do without"
        for imp in imports_of(sources)
        if not imp.level and imp.library(package) not in known
    ] + [
        f"{imp.where} imports {imp.target}, but {part_of(imp.file)} is plain: it needs "
        "nothing but Python"
        for imp in imports_of(sources)
        if part_of(imp.file) in package.plain and imp.target.split(".")[0] not in own
    ]


def imported_twice(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """A heavy library has one file that knows it, and at most one in testing/."""
    files: dict[tuple[str, bool], dict[str, None]] = {}
    for imp in imports_of(sources):
        library = imp.library(package)
        if library in package.late and imp.place != "types":
            key = library, part_of(imp.file) == TWICE
            files.setdefault(key, {})[imp.file] = None
    return [
        f"{library} is imported by {' and '.join(names)}: one file should know it"
        for (library, _), names in files.items()
        if len(names) > 1
    ]


def hidden_imports(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """Nothing is imported by a call."""
    return [
        f"{file} line {node.lineno} imports by calling {ast.unparse(node.func)}: "
        "write an import statement"
        for file, text in sources.items()
        for node in ast.walk(parsed(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    ]


def body_sizes(sources: Sources) -> dict[str, int]:
    """Return the lines of each function's body, its docstring left out."""
    sizes = {}
    for file, text in sources.items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body
                if ast.get_docstring(node, clean=False) is not None:
                    body = body[1:]
                lines = body[-1].end_lineno or 0 if body else 0
                size = lines - body[0].lineno + 1 if body else 0
                sizes[f"{file}.{node.name} line {node.lineno}"] = size
    return sizes


def long_bodies(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """Functions are short, most of them very short."""
    sizes = body_sizes(sources)
    sentences = [
        f"{name} has a body of {size} lines: split it below {BODY_LINES}"
        for name, size in sizes.items()
        if size >= BODY_LINES
    ]
    ordered = sorted(sizes.values())
    p90 = ordered[int(len(ordered) * 0.9)] if ordered else 0
    if p90 > BODY_LINES_P90:
        sentences.append(f"one body in ten has {p90} lines or more: split the longest")
    return sentences


def long_files(sources: Sources, package: Package = INF_ENGINE) -> list[str]:
    """A file has one noun and at most 500 lines."""
    sizes = {file: len(text.splitlines()) for file, text in sources.items()}
    return [
        f"{file} has {size} lines: give its second noun a file of its own"
        for file, size in sizes.items()
        if size > FILE_LINES
    ]


Rule = Callable[[Sources, Package], list[str]]

RULES: tuple[Rule, ...] = (
    unknown_files,
    upward_imports,
    tower_crossings,
    import_circles,
    face_imports,
    misplaced_imports,
    undeclared_libraries,
    imported_twice,
    hidden_imports,
    long_bodies,
    long_files,
)


def fn(lines: int) -> str:
    """Return the source of a function with a body of so many lines."""
    return "def f():\n    'Not counted.'\n" + "    x = 1\n" * lines


DAMAGED: tuple[tuple[Rule, Sources, str], ...] = (
    (unknown_files, {"novelty.thing": ""}, "novelty.thing is on no floor"),
    (
        upward_imports,
        {"tree": "from inf_engine.graph import Node", "graph": ""},
        "tree line 1 imports graph, from floor 0 up to floor 3",
    ),
    (
        upward_imports,
        {"module": "if TYPE_CHECKING:\n    from inf_engine.execution import Engine"},
        "module line 2 imports execution, from floor 2 up to floor 5",
    ),
    (
        tower_crossings,
        {"resources.manager": "import inf_engine.dispatch", "dispatch": ""},
        "from the provider's tower into the user's",
    ),
    (
        tower_crossings,
        {"llm": "from inf_engine.clients import http", "clients.http": ""},
        "llm line 1 imports clients.http, from the user's tower into the provider's",
    ),
    (
        import_circles,
        {
            "record": "",
            "tracing.a": "from inf_engine.tracing.b import x",
            "tracing.b": "from inf_engine.tracing import c",
            "tracing.c": "import inf_engine.tracing.a\nimport inf_engine.record",
        },
        "tracing.a -> tracing.b -> tracing.c -> tracing.a import each other",
    ),
    (
        import_circles,
        {
            "tracing.__init__": "from inf_engine.tracing.a import x",
            "tracing.a": "from inf_engine.tracing import y",
        },
        "tracing.__init__ -> tracing.a -> tracing.__init__",
    ),
    (face_imports, {"cli": "from inf_engine import Engine"}, "cli line 1 imports the"),
    (face_imports, {"cli": "import inf_engine"}, "'from inf_engine.module import"),
    (misplaced_imports, {"tree": "from . import types"}, "write the absolute name"),
    (misplaced_imports, {"tree": "def f():\n    import json"}, "imports json late"),
    (
        misplaced_imports,
        {"tree": "try:\n    pass\nexcept ImportError:\n    import json"},
        "tree line 4 imports json late",
    ),
    (misplaced_imports, {"tree": "import rich.live"}, "rich.live at the top"),
    (undeclared_libraries, {"tree": "import numpy"}, "imports numpy, which neither"),
    (
        imported_twice,
        {"schema": "def f():\n    import pydantic", "llm": "import pydantic.types"},
        "pydantic is imported by schema and llm: one file",
    ),
    (
        imported_twice,
        {"testing.a": "import aiohttp", "testing.b": "import aiohttp"},
        "aiohttp is imported by testing.a and testing.b",
    ),
    (
        hidden_imports,
        {"tree": "import importlib\nx = importlib.import_module('rich')"},
        "tree line 2 imports by calling importlib.import_module",
    ),
    (
        long_bodies,
        {"tree": fn(50) + fn(1) * 19},
        "tree.f line 1 has a body of 50 lines",
    ),
    (long_bodies, {"tree": fn(31)}, "one body in ten has 31 lines"),
    (long_files, {"tree": "#\n" * 501}, "tree has 501 lines"),
)

SOUND: tuple[Sources, ...] = (
    {
        "errors": "",
        "clients.http": "def f():\n    import aiohttp\n",
        "testing.server": "def f():\n    import aiohttp\n",
        "execution.engine": "from inf_engine.clients import http\nimport asyncio",
        "__init__": "from inf_engine.execution.engine import Engine",
    },
    {
        "schema": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import pydantic",
        "llm": "if TYPE_CHECKING:\n    import pydantic",
        "template": "if sys.version_info >= (3, 14):\n    import string",
    },
    {"tree": fn(30)},
    {},
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.face)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule, package: Package) -> None:
    """The source of the package breaks no rule."""
    found = rule(read_package(ROOT / package.face), package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("rule", "sources", "sentence"), DAMAGED)
def test_a_rule_sees(rule: Rule, sources: Sources, sentence: str) -> None:
    """Each rule says in a sentence what is wrong with a damaged package."""
    found = rule(sources, INF_ENGINE)
    assert len(found) == 1
    assert sentence in found[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("sources", SOUND, ids=["floors", "late", "short", "empty"])
def test_a_rule_is_content_with(rule: Rule, sources: Sources) -> None:
    """No rule complains about a sound package."""
    assert rule(sources, INF_ENGINE) == []


def test_the_package_is_read() -> None:
    """The rules are not content because they read nothing."""
    sources = read_package(ROOT / "inf_engine")
    assert {"errors", "types", "tree"} <= set(sources)
    assert body_sizes(sources)
    assert {"errors", "partitioning.exact"} <= set(read_package(ROOT / "butterfly"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import numpy", "partitioning.x line 1 imports numpy, but partitioning is"),
        ("from inf_engine import Engine", "imports inf_engine, which neither"),
    ],
)
def test_a_plain_part_of_butterfly_needs_nothing(text: str, sentence: str) -> None:
    """Neither a library nor `inf_engine`, so planning runs anywhere."""
    assert sentence in " ".join(
        undeclared_libraries({"partitioning.x": text}, BUTTERFLY)
    )
