"""The pages of a service: its runs, one of them, and the reports beside them.

They have no script: while something goes on, the browser is told to fetch the page
again. Everything a model or a user wrote passes through `escape`.
"""

import reprlib
import time
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from inf_engine.pages import cards
from inf_engine.pages.markup import counted, escape, page, seconds_text, usd_text
from inf_engine.report import STYLE, report_html
from inf_engine.serving.reports import Report
from inf_engine.serving.runs import ServedRun
from inf_engine.serving.service import Service

REFRESH_SECONDS = 2
_PREVIEW = 160

_OWN_STYLE = """
.bar{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 14px;font-size:14px}
.runs{list-style:none;margin:0;padding:0}
.runs li{display:grid;grid-template-columns:84px 92px minmax(0,1fr) auto;gap:2px 14px;
align-items:baseline;padding:10px 2px;border-bottom:1px solid var(--line)}
.runs li:last-child{border-bottom:0}
.runs .badge{justify-self:start}
.runs .said{min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
unicode-bidi:isolate}
.runs .took{color:var(--soft);font-size:13px;font-variant-numeric:tabular-nums;
text-align:right}
.runs a{font-weight:600;font-variant-numeric:tabular-nums}
.files a{font-weight:400;overflow-wrap:anywhere;unicode-bidi:isolate}
.files li{grid-template-columns:minmax(0,1fr) auto}
@media (max-width:640px){.runs li{grid-template-columns:auto minmax(0,1fr)}
.runs .said,.runs .took{grid-column:1/-1;text-align:left}
.runs .said{white-space:normal;overflow-wrap:anywhere;display:-webkit-box;
-webkit-line-clamp:3;-webkit-box-orient:vertical}}
"""


def refreshed(*, is_live: bool, still: bool) -> dict[str, str]:
    """Return the header that has a browser fetch a page again.

    Args:
        is_live: Whether what it shows may change.
        still: Whether its reader wants it to stay.
    """
    return {"Refresh": str(REFRESH_SECONDS)} if is_live and not still else {}


def runs_page(service: Service, *, has_reports: bool, still: bool) -> str:
    """Return the page of all runs, the newest first.

    Args:
        service: The service.
        has_reports: Whether there are reports beside them.
        still: Whether the page stays as it is.
    """
    book = service.runs
    alive = list(reversed(book.alive.values()))
    ended = list(reversed(book.ended))
    links = [_held("/", still)]
    if has_reports:
        links.append('<a href="/reports">Reports</a>')
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>"
        for name, value, more in _facts(service)
    )
    body = (
        f"<main>{_bar(links)}<header><h1>{escape(service.name)}</h1>"
        f'<dl class="facts">{facts}</dl></header>'
        f"{_section('Under way', alive, 'Nothing is under way.')}"
        f"{_section('Ended', ended, 'Nothing has ended yet.')}</main>"
    )
    return page(f"{service.name} · runs", _STYLE, body)


def run_page(run: ServedRun, *, still: bool) -> str:
    """Return the page of one run: its report until now.

    Args:
        run: The run.
        still: Whether the page stays as it is.
    """
    running = run.live is not None
    links = ['<a href="/">All runs</a>', f"<span>Run {escape(run.name)}</span>"]
    if running:
        links.append(_held(f"/runs/{run.name}", still))
    style = f"<style>{_OWN_STYLE}</style>"
    above = style + _bar(links)
    return report_html(run.record, above=above, running=running)


def reports_page(reports: Sequence[Report]) -> str:
    """Return the page that lists reports.

    Args:
        reports: The reports, in their order.
    """
    rows = "".join(
        f'<li><a href="/reports/{escape(quote(report.name))}">{escape(report.name)}</a>'
        f'<span class="took">{_when(report.changed)} · {report.size / 1024:,.0f} kB'
        "</span></li>"
        for report in reports
    )
    listed = f'<ul class="runs files">{rows}</ul>'
    listed = listed if rows else '<p class="none">There is no report yet.</p>'
    body = (
        f"<main>{_bar(['<a href=/>All runs</a>'])}<header><h1>Reports</h1></header>"
        f'<section><h2>{counted(len(reports), "report")}</h2><div class="panel">'
        f"{listed}</div></section></main>"
    )
    return page("Reports", _STYLE, body)


def _bar(links: Sequence[str]) -> str:
    return f'<nav class="bar" aria-label="Pages">{"".join(links)}</nav>'


def _held(path: str, still: bool) -> str:
    """Return the link that holds a page, or lets it go on."""
    if still:
        return f'<a href="{path}">Go on refreshing</a>'
    return f'<a href="{path}?still">Hold this page</a>'


def _facts(service: Service) -> list[tuple[str, str, str]]:
    """Return the figures of a service: name, value, and what to know about it."""
    book, total = service.runs, service.engine.statistics().total
    unpriced = counted(total.unpriced, "answer") + " without a price"
    cost = usd_text(total.cost if total.cost or not total.unpriced else None)
    more = f"{book.outcomes['cancelled']:,} cancelled"
    return [
        ("Under way", f"{len(book.alive):,}", f"of {book.most:,} at most"),
        ("Done", f"{book.outcomes['done']:,}", ""),
        ("Failed", f"{book.outcomes['failed']:,}", more),
        ("Requests", f"{total.requests:,}", f"{total.failures:,} failed"),
        ("Tokens in", f"{total.input_tokens:,}", f"{total.output_tokens:,} out"),
        ("Cost", cost, unpriced if total.unpriced else ""),
    ]


def _section(title: str, runs: Sequence[ServedRun], none: str) -> str:
    rows = "".join(map(_row, runs))
    listed = f'<ul class="runs">{rows}</ul>' if rows else f'<p class="none">{none}</p>'
    return f'<section><h2>{title}</h2><div class="panel">{listed}</div></section>'


def _row(run: ServedRun) -> str:
    """Return a run as a line of the list."""
    run.look()
    ended, known = run.counts
    facts = [
        _when(run.began),
        seconds_text(run.seconds),
        f"{ended:,} of {counted(known, 'node')}",
        f"{run.usage.total_tokens:,} tokens",
        "cost unknown" if run.cost is None else usd_text(run.cost),
    ]
    outcome = escape(run.outcome)
    return (
        f'<li><a href="/runs/{escape(run.name)}">Run {escape(run.name)}</a>'
        f'<span class="badge {outcome}">{outcome}</span>'
        f'<span class="said" dir="auto">{escape(_preview(run.args))}</span>'
        f'<span class="took">{" · ".join(facts)}</span></li>'
    )


def _preview(args: tuple[object, ...]) -> str:
    """Return the beginning of the inputs, on one line."""
    texts = [arg if isinstance(arg, str) else reprlib.repr(arg) for arg in args]
    line = " ".join(" · ".join(text[: 2 * _PREVIEW] for text in texts).split())
    return line if len(line) <= _PREVIEW else f"{line[:_PREVIEW]} …"


def _when(at: float) -> str:
    """Return a time of today, or with its date."""
    then = datetime.fromtimestamp(at)
    same = time.strftime("%Y-%m-%d") == then.strftime("%Y-%m-%d")
    return then.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M")


_STYLE = STYLE + cards.STYLE + _OWN_STYLE
