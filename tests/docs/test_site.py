"""The documentation site: it builds, is whole, and asks nobody else for anything."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["", ".clients", ".journal", ".optimization", ".serving", ".testing"]

for needed in ("zensical", "mkdocstrings_handlers.python", "nbclient", "ipykernel"):
    pytest.importorskip(needed, reason="needs the extra 'docs'")


class Loads(HTMLParser):
    """Collects what a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses of scripts, styles, pictures and the like."""
        given = dict(attrs)
        self.found.append(given.get("src") or "")
        if tag == "link":
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; it must succeed."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build.py"), str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()
    return folder / "site"


@pytest.fixture
def build() -> ModuleType:
    """Load ``docs/build.py``."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    """Scripts, styles, fonts and pictures lie beside the pages."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert [found for found in loads.found if "//" in found] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_in_the_reference(site: Path, package: str) -> None:
    """Each name has an entry that begins with what its docstring says."""
    module = importlib.import_module(f"inf_engine{package}")
    pages = [p.read_text("utf-8") for p in (site / "reference").glob("*.html")]
    said = re.compile(
        r'<h\d id="([\w.]+)" class="doc(?:(?!<h\d).)*?'
        r'<div class="doc doc-contents[^>]*>\s*'
        r'(?:<p class="doc doc-class-bases">(?:(?!</p>).)*</p>)?\s*<p>',
        re.DOTALL,
    )
    told = {name for page in pages for name in said.findall(page)}
    missing = []
    for name in module.__all__:
        home = getattr(getattr(module, name), "__module__", module.__name__)
        places = {f"inf_engine{package}.{name}", f"{home}.{name}"}
        missing += [name] if not places & told else []
    assert missing == []


@pytest.mark.slow
def test_commands_are_shown_with_their_help(site: Path) -> None:
    """The reference has what each command says of itself."""
    page = (site / "reference" / "commands.html").read_text("utf-8")
    assert page.count("usage: inf-engine ") == 7
    assert "--api-key-env" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("01_first_pipeline", "fast · 1"),  # on the picture of the record
        ("02_journal_and_limits", "from the journal: 15"),
        ("03_train_a_prompt", "Sort the mail into billing (all about money)"),
    ],
)
def test_notebooks_are_shown_with_what_they_gave(
    site: Path, name: str, shown: str
) -> None:
    """The notebooks were run when the site was built; in git they have no outputs."""
    page = (site / "notebooks" / f"{name}.html").read_text("utf-8")
    given = page.split('<div class="output', 1)[1]
    assert shown in given
    assert '"outputs": []' in (source := notebook(name))
    assert not re.search(r'"outputs": \[\s*[^\]\s]', source)


def notebook(name: str) -> str:
    """Return the file of a notebook."""
    return (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")


def test_pages_are_shown_without_what_is_hidden(build: ModuleType) -> None:
    """Comments and the words after a fence go, links follow their pages."""
    text = (
        "[a](../docs/start.md#run) [b](https://example.com) [c](#here)\n"
        "<!--\n```python\nhidden\n```\n-->\n"
        "```toml file=a.toml\nkey = '<!--'\n[d](none)\n```\n```python local\nx\n```\n"
        '```python title="A b"\n```\n'
    )
    places = {"docs/start.md": "start.md", "design_docs/x.md": "design/x.md"}
    assert build.page(text, "design_docs/x.md", places) == (
        "[a](../start.md#run) [b](https://example.com) [c](#here)\n"
        "```toml title=\"a.toml\"\nkey = '<!--'\n[d](none)\n```\n```python\nx\n```\n"
        '```python title="A b"\n```\n'
    )


def test_every_page_is_in_the_navigation(build: ModuleType) -> None:
    """No page can only be found by search, and the navigation names no other."""
    settings = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text("utf-8"))
    named = list(leaves(settings["project"]["nav"]))
    pages = [place for _, place in build.placed() if place.endswith(".md")]
    assert sorted(named) == sorted(pages)


def leaves(entry: Any) -> Iterator[str]:
    """Yield the pages of an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from leaves(part)


def test_a_link_to_what_is_not_shown_is_refused(build: ModuleType) -> None:
    """The page and the link are named."""
    with pytest.raises(build.SiteError, match=r"docs/a.md links to \.\./setup.py"):
        build.page("[a](../setup.py)", "docs/a.md", {"docs/a.md": "a.md"})
