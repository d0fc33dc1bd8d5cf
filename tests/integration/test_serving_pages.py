"""The pages of the service: what a reader finds, and what never becomes markup."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.integration.serving_helpers import Ask, Gate, Server, Steps, served
from tests.unit.test_report import Page

from inf_engine.errors import UsageError
from inf_engine.serving.reports import ReportFolder

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> \"'& \u202egnp.exe\u202c "
    + "W" * 400
    + "</pre></main><meta http-equiv=refresh content=0>\x00\ud800"
)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "nav", "a", "header"),
    *("h1", "h2", "h3", "h4", "dl", "div", "dt", "dd", "small", "section", "ul", "li"),
    *("span", "p", "pre", "details", "summary", "b", "mark", "article", "ol", "i"),
    *("table", "thead", "tbody", "tfoot", "tr", "th", "td", "svg", "g", "path"),
    *("rect", "text", "tspan", "marker", "defs", "circle", "line"),
}


def test_the_list_shows_runs_under_way_and_ended() -> None:
    """The newest first, each leads to its page; it is fetched again on its own."""

    async def check(server: Server) -> None:
        run = asyncio.create_task(server.run("slow"))
        await server.client.came.wait()
        status, text, headers = await server.get("/")
        page = Page(text)
        assert status == 200
        assert headers["Refresh"] == "2"
        assert page.having("a", href="/runs/1")
        assert [tag["class"] for tag in page.having("span", class_="badge running")]
        assert "slow" in page.text
        server.client.open.set()
        await run
        await server.run("fast")
        page = Page((await server.get("/"))[1])
        links = [tag["href"] for tag in page.having("a")]
        assert [link for link in links if "/runs/" in str(link)] == [
            "/runs/2",
            "/runs/1",
        ]
        assert "Nothing is under way." in page.text

    served(Ask(), check, Gate())


def test_a_page_can_be_held() -> None:
    """Who wants to read or copy is not interrupted."""

    async def check(server: Server) -> None:
        _, text, headers = await server.get("/?still")
        assert "Refresh" not in headers
        assert Page(text).having("a", href="/")

    served(Ask(), check)


def test_a_run_under_way_shows_what_has_happened_until_now() -> None:
    """Nodes that run or wait say so, with the prompt as far as it is known."""

    async def check(server: Server) -> None:
        run = asyncio.create_task(server.run({"left": "one", "right": "two"}))
        await server.client.came.wait()
        _, text, headers = await server.get("/runs/1")
        page = Page(text)
        assert headers["Refresh"] == "2"
        assert page.having("span", class_="badge running")
        assert "cancelled" not in page.text
        assert "none yet: the run goes on" in page.text
        record = server.service.runs.alive["1"].record
        outcomes = [node.outcome for node in record.nodes if node.alias]
        assert outcomes == ["running", "waiting"]
        server.client.open.set()
        await run
        _, text, headers = await server.get("/runs/1")
        page = Page(text)
        assert "Refresh" not in headers
        assert page.having("span", class_="badge done")
        assert page.having("mark", class_="node")  # the hole that `first` filled
        assert page.having("a", href="/")

    served(Steps(), check, Gate())


def test_hostile_texts_stay_text() -> None:
    """Nothing that a user or a model wrote becomes a tag, on any page."""

    async def check(server: Server) -> None:
        await server.run(HOSTILE)
        for path in ("/", "/runs/1"):
            _, text, headers = await server.get(path)
            page = Page(text)
            assert {tag for tag, _ in page.tags} <= TAGS
            assert "<script>alert(1)" in page.text
            assert not [n for _, at in page.tags for n in at if n.startswith("on")]
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none';")
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"

    served(Ask(), check, lambda _: HOSTILE.replace("\ud800", ""))


def test_only_so_many_runs_are_kept() -> None:
    """An older one is gone, and its page says so."""

    async def check(server: Server) -> None:
        for text in "abc":
            await server.run(text)
        assert (await server.get("/runs/1"))[0] == 404
        assert (await server.get("/runs/2"))[0] == 200
        assert server.service.runs.outcomes["done"] == 3

    served(Ask(), check, keep_runs=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with reports, other files, and a way out."""
    reports = tmp_path / "reports"
    (reports / "night 1").mkdir(parents=True)
    (reports / "new.html").write_text("<p>new")
    (reports / "night 1" / "old #1.html").write_text("<script>1</script>old")
    os.utime(reports / "night 1" / "old #1.html", (0, 0))
    (reports / "notes.txt").write_text("private")
    (tmp_path / "outside.html").write_text("outside")
    (reports / "link.html").symlink_to(tmp_path / "outside.html")
    return reports


def test_reports_are_listed_and_served(folder: Path) -> None:
    """The newest first; scripts in them do not run."""

    async def check(server: Server) -> None:
        page = Page((await server.get("/reports"))[1])
        links = [tag["href"] for tag in page.having("a")]
        assert links == ["/", "/reports/new.html", "/reports/night%201/old%20%231.html"]
        status, text, headers = await server.get(str(links[-1]))
        assert (status, text) == (200, "<script>1</script>old")
        assert headers["Content-Security-Policy"].endswith("; sandbox")
        assert Page((await server.get("/"))[1]).having("a", href="/reports")

    served(Ask(), check, reports=ReportFolder(folder))


@pytest.mark.parametrize(
    "name",
    [
        *("../outside.html", "link.html", "notes.txt", "gone.html", "a\0.html"),
        *("/etc/passwd", "night 1", ""),
    ],
)
def test_nothing_else_of_the_machine_is_served(folder: Path, name: str) -> None:
    """No other kind of file, and nothing outside of the folder."""
    assert ReportFolder(folder).read(name) is None


def test_a_folder_that_is_none_is_refused(folder: Path) -> None:
    """Before anything is served."""
    with pytest.raises(UsageError, match=r"is no folder\. Name one that exists"):
        ReportFolder(folder / "new.html")
