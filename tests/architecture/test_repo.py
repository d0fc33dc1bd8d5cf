"""The repository has what a reader and a bare machine need, and nothing foreign."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOP_LEVEL = """
    src tests docs design_docs notebooks examples benchmarks pyproject.toml Makefile
    TASKS.md CHANGELOG.md CLAUDE.md README.md LICENSE .ci/run src/inf_engine/py.typed
""".split()

DESIGN_DOCS = """
    architecture inference_module tracing execution resources optimization
    development_plan
""".split()

WORDS = """
    help setup demo test test-core test-unit test-integration ci lint types docs format
    bench
""".split()

LOCK_FILES = {
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "pylock.toml",
    "Pipfile.lock",
    "package-lock.json",
}
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|index[-_]url|find[-_]links|npmjs\.(?:org|com)"
    r"|deb\.debian\.org",
    re.IGNORECASE,
)
CONFLICT = re.compile(r"^(?:<{7} |>{7} )", re.MULTILINE)
SKIPPED = re.compile(
    r"\.venv|\.git$|build$|__pycache__|\.\w+_cache|\.hypothesis|\.coverage"
)


def repo_files() -> list[Path]:
    """Return the files of the repository, caches and environments left out."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if not SKIPPED.match(f))
        found += [Path(folder, n) for n in sorted(names) if not SKIPPED.match(n)]
    return found


def repo_texts() -> list[tuple[str, str]]:
    """Return the path and text of each file that is text."""
    texts = []
    for path in repo_files():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            name = path.relative_to(ROOT).as_posix()
            texts.append((name, data.decode("utf-8", "replace")))
    return texts


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_top_level(name: str) -> None:
    """Each file and folder that the project promises is there."""
    assert (ROOT / name).exists(), f"{name} is missing"


@pytest.mark.parametrize("name", DESIGN_DOCS)
def test_design_docs_exist(name: str) -> None:
    """Each design note is there."""
    assert (ROOT / "design_docs" / f"{name}.md").is_file(), f"{name}.md is missing"


def test_design_docs_are_short() -> None:
    """A design note has at most 200 lines."""
    notes = sorted((ROOT / "design_docs").glob("*.md"))
    sizes = {n.name: len(n.read_text("utf-8").splitlines()) for n in notes}
    assert {name: size for name, size in sizes.items() if size > 200} == {}


def test_licence_is_apache() -> None:
    """The whole Apache licence 2.0 is in the repository."""
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_lock_file() -> None:
    """No file freezes where packages come from."""
    assert [p for p in repo_files() if p.name in LOCK_FILES] == []


def test_no_registry_address() -> None:
    """No file names a package registry."""
    assert [name for name, text in repo_texts() if REGISTRIES.search(text)] == []


def test_no_conflict_markers() -> None:
    """No file holds the marks of an unfinished merge."""
    assert [name for name, text in repo_texts() if CONFLICT.search(text)] == []


def test_judging_tools_are_pinned() -> None:
    """The formatter and the type checker give the same verdict everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    dev = project["optional-dependencies"]["dev"]
    pinned = [line.split("==")[0] for line in dev if "==" in line]
    assert pinned == ["ruff", "ty"]


def test_one_version() -> None:
    """What each package says of itself is the version of the distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    said = re.compile(r'^(?:VERSION|LIBRARY) = "(\d+\.\d.*)"$', re.MULTILINE)
    files = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    told = [version for text in files for version in said.findall(text)]
    assert told == [project["version"]] * 3  # the journal, butterfly, claas


def test_ci_runs_make_ci() -> None:
    """The CI is an executable file that runs `make ci`, as a contributor does."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text("utf-8").splitlines()[-1] == "make ci"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_the_words() -> None:
    """`make help` names every word that the project promises."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(
        ["make", "help"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  make ([a-z-]+) ", done.stdout, re.MULTILINE)
    assert [word for word in WORDS if word not in listed] == []


def test_readme_names_the_two_commands() -> None:
    """The README says `make demo` and `make test`."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in readme
    assert "make test" in readme
