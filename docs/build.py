"""Makes the documentation site: ``python docs/build.py [FOLDER]``; see ``make docs``.

What the site shows lies in several folders, where readers of the repository look for
it. This gathers copies in ``FOLDER/docs`` (``build/docs``): links lead where their
pages have gone, what is hidden in comments stays away, examples become pages, and
notebooks and ``--help`` are run and shown with what they gave. Then zensical makes
``FOLDER/site``, strictly: a broken link, a missing page or a docstring that cannot be
read ends it.
"""

import asyncio
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from inf_engine.cli.parser import parser_of

ROOT = Path(__file__).parents[1]

FOLDERS = {  # what is shown, and the folder of the site where it goes
    "docs/**/*.md": "",
    "docs/**/*.css": "",
    "docs/**/*.png": "",
    "design_docs/*.md": "design",
    "notebooks/*.ipynb": "notebooks",
    "examples/*.py": "examples",
    "benchmarks/*/README.md": "benchmarks",
}
SINGLE = {
    "CHANGELOG.md": "changelog.md",
    "CLAUDE.md": "contributing.md",
    "TASKS.md": "tasks.md",
    "benchmarks/README.md": "benchmarks/engine.md",
}
STANDS_FOR = {"README.md": "index.md"}  # the site has its own first page

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
HELP = re.compile(r"^```bash help\ninf-engine (.*) --help\n```$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
LIST = re.compile(r"- |1\. ")
IN_LIST = re.compile(r"- |\d+\. | |$")
TITLE = re.compile(r' (?:file=(\S+)|title="([^"]+)")')


class SiteError(Exception):
    """The site cannot be made."""


def main(folder: Path) -> int:
    """Make the site in a folder and return the exit code."""
    os.environ["COLUMNS"] = "80"  # of what commands say
    shutil.rmtree(folder / "site", ignore_errors=True)
    try:
        gather(folder / "docs")
    except (SiteError, CellExecutionError) as exc:
        sys.stderr.write(f"docs/build.py: {exc}\n")
        return 1
    settings = (ROOT / "docs" / "zensical.toml").read_text("utf-8")
    (folder / "zensical.toml").write_text(settings.replace("ROOT", str(ROOT)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    sys.stderr.write(done.stderr)
    return 1 if done.returncode or "griffe: " in done.stderr else 0


def gather(pages: Path) -> None:
    """Fill a folder with all pages."""
    places = dict(placed())
    shutil.rmtree(pages, ignore_errors=True)
    notebooks = [source for source in places if source.endswith(".ipynb")]
    shown = dict(zip(notebooks, asyncio.run(run_all(notebooks)), strict=True))
    for source, target in places.items():
        path = pages / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if source in shown:
            text = shown[source]
        elif source.endswith(".py"):
            text = program(ROOT / source)
        elif source.endswith(".md"):
            text = HELP.sub(helped, (ROOT / source).read_text("utf-8"))
        else:
            shutil.copy(ROOT / source, path)
            continue
        path.write_text(page(text, source, {**places, **STANDS_FOR}), "utf-8")


def placed() -> Iterator[tuple[str, str]]:
    """Yield each file that is shown, from the root, and its place on the site."""
    for pattern, folder in FOLDERS.items():
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if pattern.startswith("docs/"):
                yield name, name.removeprefix("docs/")
            elif path.name == "README.md":
                yield name, f"{folder}/{path.parent.name}.md"
            else:
                yield name, f"{folder}/{path.stem}.md"
    yield from SINGLE.items()


def page(text: str, source: str, places: dict[str, str]) -> str:
    """Return a document as the site shows it.

    Args:
        text: The document.
        source: Its file, from the root.
        places: The place on the site of each file.

    Raises:
        SiteError: If it links to a file that the site does not show.
    """
    lines: list[str] = []
    fence = ""
    hidden = False
    for line in text.splitlines():
        mark = FENCE.match(line)
        if fence:
            fence = "" if mark and mark[2] == fence and not mark[3] else fence
        elif hidden or line.startswith("<!--"):
            hidden = "-->" not in line
            continue
        elif mark:
            fence = mark[2]
            line = mark[1] + fence + words_of(mark[3])
        else:
            line = LINK.sub(lambda m: moved(m[1], source, places), line)
            if LIST.match(line) and lines and not IN_LIST.match(lines[-1]):
                lines.append("")  # or else zensical goes on with the paragraph
        lines.append(line)
    return "\n".join(lines) + "\n"


def words_of(words: str) -> str:
    """Return what follows a fence: the language, and a title or the file's name."""
    language = words.split(" ")[0]
    named = TITLE.search(words)
    return f'{language} title="{named[1] or named[2]}"' if named else language


def moved(link: str, source: str, places: dict[str, str]) -> str:
    """Return a link between files of the repository as one between pages."""
    folder = PurePosixPath(source).parent
    aim = os.path.normpath(folder / link)
    if aim not in places:
        raise SiteError(f"{source} links to {link}, which the site does not show")
    return os.path.relpath(places[aim], PurePosixPath(places[source]).parent)


def helped(command: re.Match[str]) -> str:
    """Return a block with what a command says of itself."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parser_of("inf-engine").parse_args([*command[1].split(), "--help"])
    return f"```text\n{said.getvalue()}```"


def program(path: Path) -> str:
    """Return an example as a page."""
    return f"# {path.name}\n\n```python\n{path.read_text('utf-8')}```\n"


async def run_all(notebooks: list[str]) -> list[str]:
    """Run notebooks side by side; return each as a page."""
    return await asyncio.gather(*(shown_notebook(ROOT / name) for name in notebooks))


async def shown_notebook(path: Path) -> str:
    """Run a notebook in an empty folder; return it as a page, with what it gave."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        kernel = AsyncKernelManager(
            transport="ipc",
            ip=f"{folder}/socket",
            connection_file=f"{folder}/kernel.json",
        )
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, kernel, timeout=120, resources=where)
        try:
            await client.async_execute(env={**os.environ, "IPYTHONDIR": folder})
        finally:
            await kernel.shutdown_kernel(now=True)
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [output_of(output) for output in cell.outputs]
    return "\n\n".join(parts) + "\n"


def output_of(output: Any) -> str:
    """Return one output of a cell: a picture if there is one, else its text."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'
    kind = "value" if data else "printed"
    text = data.get("text/plain", output.get("text", "")).rstrip("\n")
    return f'<div class="output {kind}" markdown>\n\n```text\n{text}\n```\n\n</div>'


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if sys.argv[1:] else ROOT / "build").resolve()))
