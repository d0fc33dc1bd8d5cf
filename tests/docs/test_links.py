"""Links between the documents of the repository lead somewhere."""

import re
from pathlib import Path

import pytest
from tests.docs.test_docs import FENCE, ROOT, documents

LINK = re.compile(r'(?:\]\(|src=")(?![a-z]+:)([^)"\s]+)')


def broken_links(path: Path) -> list[str]:
    """Return the links of a document that lead to no file, or to no heading of it."""
    text = FENCE.sub("", path.read_text("utf-8"))
    broken = []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        aim = path.parent / name if name else path
        if not aim.exists() or (anchor and anchor not in anchors_of(aim)):
            broken.append(link)
    return broken


def anchors_of(path: Path) -> set[str]:
    """Return what the headings of a document are called in links."""
    text = FENCE.sub("", path.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    "path",
    [*documents(), ROOT / "CHANGELOG.md", ROOT / "TASKS.md"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    """Each link inside the repository names a file, and a heading that it has."""
    assert broken_links(path) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A missing file and a missing heading are told, what is outside is not asked."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[a](page.md#a-page) [b](#a-page) [c](https://example.com)\n"
        "[d](none.md) [e](page.md#none)\n```text\n[f](none)\n```\n"
        '<img src="none.png">\n'
    )
    assert broken_links(page) == ["none.md", "page.md#none", "none.png"]
