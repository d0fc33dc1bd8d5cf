"""Every example in the documents and docstrings runs.

The blocks marked ``python`` of one document run in order and share one namespace, in
an empty folder; ``await`` outside a function is allowed, as in a notebook. After the
word ``python`` a block may say

- ``no-run``: an illustration that cannot run; there are few of them;
- ``local``: needs the embedded model, passed over where xllamacpp is not installed.

A Python block whose ``title="NAME"``, which the site shows above it, is a library of
``benchmarks/peers/needs`` is a program of that one. The blocks of a page with the same
title are one program, run by the interpreter in ``.venv-peers/NAME`` (`make docs-peers`
makes it) at the place of the last of them, where what the page has set up still stands;
without that environment its test is skipped.

A block of another language marked ``file=NAME`` is written to that file first, and a
block inside an HTML comment runs too: readers do not see it. Blocks with ``>>>`` are
doctests.
"""

import ast
import asyncio
import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from benchmarks.peers.run import QUIET
from tests.architecture.test_floors import FLOORS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
NO_RUN_AT_MOST = 6
PEERS = {path.stem for path in (ROOT / "benchmarks/peers/needs").glob("*.txt")}
PEER_SECONDS = 300

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<words>\w[^\n`]*)\n(?P<text>.*?)^ *```[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


PAGE = """
```toml file=some.toml
key = 1
```
<!--
```python
import pathlib, tomllib
```
-->
- in a list

  ```python
  async def double(x):
      return 2 * x
  ```

```python
four = await double(2)
```
```python no-run
raise SystemExit
```
```
raise SystemExit
```
```pycon
>>> four
4
```
```python
text = pathlib.Path("some.toml").read_text()
assert tomllib.loads(text) == {"key": four - 3}
```
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its words (language and options), first line, and text."""

    words: tuple[str, ...]
    line: int
    text: str

    @property
    def is_python(self) -> bool:
        """Whether the block is a program."""
        return self.words[0] in ("python", "py", "pycon")

    @property
    def is_doctest(self) -> bool:
        """Whether the block is a dialogue with the interpreter."""
        return self.text.lstrip().startswith(">>>")

    @property
    def peer(self) -> str:
        """The other library whose program it is; empty if it is one of ours."""
        name = self.said("title").lower()
        return name if self.is_python and name in PEERS else ""

    def said(self, word: str) -> str:
        """Return what a word of the block is said to be."""
        said = [w for w in self.words[1:] if w.startswith(f"{word}=")]
        return said[0].partition("=")[2] if said else ""


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document that name a language."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        lines = match["text"].splitlines(keepends=True)
        code = "".join(part.removeprefix(match["indent"]) for part in lines)
        yield Block(tuple(shlex.split(match["words"])), line, code)


def run_code(block: Block, name: str, space: ModuleType, loop: asyncio.Runner) -> None:
    """Run a program; a traceback points at the line of the document."""
    code = compile(
        "\n" * (block.line - 1) + block.text,
        name,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, vars(space))
        return

    async def run() -> None:
        await eval(code, vars(space))

    loop.run(run())


def run_dialogue(block: Block, name: str, space: ModuleType) -> None:
    """Run a doctest and compare what it prints."""
    parser = doctest.DocTestParser()
    test = parser.get_doctest(block.text, vars(space), name, name, block.line - 1)
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    vars(space).update(test.globs)
    assert not report, "".join(report)


def python_of(peer: str) -> Path | None:
    """Return the interpreter of a peer; None where it is not installed."""
    folder = ROOT / ".venv-peers" / peer
    return folder / "bin" / "python" if (folder / "has-peer").exists() else None


def run_peer(blocks: list[Block], name: str, python: Path) -> None:
    """Run the blocks of a peer as one program; lines are those of the document."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    program = Path(f"{Path(name).stem}_{blocks[0].peer}.py")
    program.write_text("\n".join(lines), "utf-8")
    done = subprocess.run(
        [str(python), "-W", "ignore", str(program)],
        env={**os.environ, **QUIET, "HOME": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=PEER_SECONDS,
    )
    if done.returncode:
        pytest.fail(f"{name}:\n{done.stderr[-3000:]}", pytrace=False)


def is_passed_over(block: Block) -> bool:
    """Say whether a block does not run in this process, or not here at all."""
    no_model = "local" in block.words and find_spec("xllamacpp") is None
    no_program = not block.is_python or "no-run" in block.words
    return no_program or no_model or bool(block.peer)


def run_document(path: Path, peer: str = "", python: Path | None = None) -> int:
    """Run the blocks of a document in the current folder; return how many ran.

    Args:
        path: The document.
        peer: A library whose blocks run, too; those of the others are passed over.
        python: Its interpreter.
    """
    space = ModuleType("document")
    sys.modules[space.__name__] = space
    ran = 0
    blocks = list(blocks_of(path.read_text("utf-8")))
    theirs = [block for block in blocks if python and block.peer == peer]
    with asyncio.Runner() as loop:
        for block in blocks:
            if file := block.said("file"):
                Path(file).write_text(block.text, "utf-8")
            if python and block in theirs[-1:]:
                run_peer(theirs, str(path), python)
            if is_passed_over(block):
                continue
            if block.is_doctest:
                run_dialogue(block, str(path), space)
            else:
                run_code(block, str(path), space, loop)
            ran += 1
    del sys.modules[space.__name__]
    return ran


def documents() -> list[Path]:
    """Return the documents whose blocks run."""
    found = [ROOT / "README.md", ROOT / "CLAUDE.md", ROOT / "benchmarks" / "README.md"]
    found += sorted((ROOT / "design_docs").glob("*.md"))
    found += sorted((ROOT / "docs").rglob("*.md"))
    return [path for path in found if path.exists()]


def pages_of_peers() -> list[tuple[Path, str]]:
    """Return the documents with programs of other libraries, and which."""
    pages = {path: blocks_of(path.read_text("utf-8")) for path in documents()}
    named = {path: {b.peer for b in blocks} - {""} for path, blocks in pages.items()}
    return [(path, peer) for path, peers in named.items() for peer in sorted(peers)]


def modules_with_dialogues() -> list[str]:
    """Return the modules of the package whose source has a doctest."""
    files = sorted(SOURCE.rglob("*.py"))
    found = [f for f in files if re.search(r"^\s*>>> ", f.read_text("utf-8"), re.M)]
    names = [".".join(f.relative_to(SOURCE).with_suffix("").parts) for f in found]
    return [name.removesuffix(".__init__") for name in names]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make an empty folder the current one; the environment is as before at the end."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_document_runs(path: Path) -> None:
    """Every Python block of the document runs."""
    run_document(path)


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(
    ("path", "peer"), pages_of_peers(), ids=lambda part: Path(part).name
)
def test_programs_of_other_libraries_run(path: Path, peer: str) -> None:
    """What a document shows of another library runs with that library."""
    python = python_of(peer)
    if python is None:
        pytest.skip(f"{peer} is not installed: make docs-peers")
    run_document(path, peer, python)


@pytest.mark.parametrize("name", modules_with_dialogues())
def test_docstring_dialogues_run(name: str) -> None:
    """Every ``>>>`` in the docstrings of the module gives what it shows."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_few_blocks_are_only_illustrations() -> None:
    """Nearly all blocks run: `no-run` is the exception."""
    blocks = [b for path in documents() for b in blocks_of(path.read_text("utf-8"))]
    idle = [b for b in blocks if b.is_python and "no-run" in b.words]
    assert len(idle) <= NO_RUN_AT_MOST


def test_the_drawing_of_the_floors_is_true() -> None:
    """Architecture.md draws every part on its floor, as the table of the tests."""
    page = (ROOT / "design_docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^(\d)  ([\w |]+)$", page, re.MULTILINE)
    drawn = {int(floor): sorted(re.findall(r"\w+", parts)) for floor, parts in rows}
    assert drawn == {floor: sorted(parts) for floor, parts in FLOORS.items()}


def test_blocks_share_names_and_may_await(empty_folder: Path) -> None:
    """Blocks run in order in one namespace, files are written, fences found."""
    document = empty_folder / "page.md"
    document.write_text(PAGE, "utf-8")
    assert run_document(document) == 5


TWO_LIBRARIES = """
```toml file=some.toml
key = 1
```
```python
import os

os.environ["SAID"] = "4"
```
```python title="DSPy"
import sys, tomllib

four = int(__import__("os").environ["SAID"])
```
```python title="inf-engine"
assert "four" not in globals()
```
```python title="DSPy"
assert four == 4 and tomllib.load(open("some.toml", "rb"))["key"] == 1
assert sys._getframe().f_lineno == 20, "lines are the document's"
```
```python
del os.environ["SAID"]
```
"""


def test_programs_of_another_library_are_one_process_of_its_own(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A title names the library; its blocks share names, ours do not see them."""
    monkeypatch.setenv("SAID", "")
    document = empty_folder / "page.md"
    document.write_text(TWO_LIBRARIES, "utf-8")
    assert run_document(document) == 3
    assert run_document(document, "dspy", Path(sys.executable)) == 3
    document.write_text(TWO_LIBRARIES.replace("four == 4", "four == 5"), "utf-8")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)line 19.*AssertionError"):
        run_document(document, "dspy", Path(sys.executable))


def test_a_failing_block_names_its_line(empty_folder: Path) -> None:
    """The traceback of a block points into the document."""
    document = empty_folder / "page.md"
    document.write_text("text\n\n```python\nx = 1\nx / 0\n```\n", "utf-8")
    with pytest.raises(ZeroDivisionError) as caught:
        run_document(document)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(document), 5)


def test_a_wrong_dialogue_fails(empty_folder: Path) -> None:
    """A doctest that shows another answer is a failure."""
    document = empty_folder / "page.md"
    document.write_text("```python\n>>> 1 + 1\n3\n```\n", "utf-8")
    with pytest.raises(AssertionError, match=r"Got:\s+2"):
        run_document(document)
