"""Every example in the documents and docstrings runs.

The blocks marked ``python`` of one document run in order and share one namespace, in
an empty folder; ``await`` outside a function is allowed, as in a notebook. After the
word ``python`` a block may say

- ``no-run``: an illustration that cannot run; there are few of them;
- ``local``: needs the embedded model, passed over where xllamacpp is not installed.

A block of another language marked ``file=NAME`` is written to that file first, and a
block inside an HTML comment runs too: readers do not see it. Blocks with ``>>>`` are
doctests.
"""

import ast
import asyncio
import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
from tests.architecture.test_floors import FLOORS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
NO_RUN_AT_MOST = 6

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


def blocks_of(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a document that name a language."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        lines = match["text"].splitlines(keepends=True)
        code = "".join(part.removeprefix(match["indent"]) for part in lines)
        yield Block(tuple(match["words"].split()), line, code)


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


def run_document(path: Path) -> int:
    """Run the blocks of a document in the current folder; return how many ran."""
    space = ModuleType("document")
    sys.modules[space.__name__] = space
    ran = 0
    with asyncio.Runner() as loop:
        for block in blocks_of(path.read_text("utf-8")):
            for word in block.words[1:]:
                if word.startswith("file="):
                    Path(word.removeprefix("file=")).write_text(block.text, "utf-8")
            if not block.is_python or "no-run" in block.words:
                continue
            if "local" in block.words and find_spec("xllamacpp") is None:
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


def modules_with_dialogues() -> list[str]:
    """Return the modules of the package whose source has a doctest."""
    files = sorted(SOURCE.rglob("*.py"))
    found = [f for f in files if re.search(r"^\s*>>> ", f.read_text("utf-8"), re.M)]
    names = [".".join(f.relative_to(SOURCE).with_suffix("").parts) for f in found]
    return [name.removesuffix(".__init__") for name in names]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_document_runs(path: Path) -> None:
    """Every Python block of the document runs."""
    run_document(path)


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
