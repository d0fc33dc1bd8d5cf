"""When each node waited and worked, as rows of bars over one time axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inf_engine.pages.markup import escape, seconds_text

TICKS = 6

STYLE = """
.timeline{min-width:480px;font-size:12.5px}
.lane{display:grid;grid-template-columns:minmax(104px,20%) 1fr 64px;gap:10px;
align-items:center;min-height:24px}
.lane .who{position:sticky;left:0;z-index:1;background:var(--panel);
overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
font-family:var(--mono);font-size:12px}
.lane .took{color:var(--soft);text-align:right;font-variant-numeric:tabular-nums;
white-space:nowrap}
.track{position:relative;height:24px}
.track i{position:absolute;top:5px;height:14px;border-radius:3px;min-width:2px}
.track .tick{top:0;height:24px;min-width:0;width:0;border-radius:0;
border-left:1px solid var(--grid)}
.track .wait{top:11px;height:2px;background:var(--wait);border-radius:0}
.track .span{background:var(--span)}
.track .work{background:var(--work);border-right:1px solid var(--panel)}
.track .bad{background:repeating-linear-gradient(135deg,var(--bad) 0 4px,
var(--bad-2) 4px 7px)}
.hot .track .work{background:var(--hot)}.hot .track .span{background:var(--hot-2)}
.hot .who,.hot .who a{color:var(--hot-ink);font-weight:600}
.axis{color:var(--soft)}.axis .track span{position:absolute;top:3px;
transform:translateX(-50%);white-space:nowrap;font-variant-numeric:tabular-nums}
.axis .track span:first-child{transform:none}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:12.5px;
margin:12px 0 0;padding:0;list-style:none}
.key i{display:inline-block;width:22px;height:10px;border-radius:3px;margin-right:6px}
.key .wait{height:2px;background:var(--wait);vertical-align:4px}
.key .span{background:var(--span)}.key .work{background:var(--work)}
.key .hot{background:var(--hot)}
.key .bad{background:repeating-linear-gradient(135deg,var(--bad) 0 4px,
var(--bad-2) 4px 7px)}
"""

_KEY = (
    ("wait", "ready, waiting for a slot, a limit or a pause"),
    ("work", "on the wire, or running"),
    ("span", "between its requests"),
    ("bad", "request that failed"),
    ("hot", "critical path"),
)


@dataclass(frozen=True, slots=True)
class Work:
    """A stretch of work; times are seconds since the run began."""

    started: float
    seconds: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of the timeline; times are seconds since the run began.

    Args:
        name: The node's name.
        started: When it started.
        seconds: How long it took.
        waits: When it waited and for how long, before it started and between requests.
        work: Its requests, or its whole time.
        critical: Whether it is on the critical path.
        link: The id on the page that its name leads to, empty for none.
        outcome: How it ended; said instead of its time unless it is ``done``.
    """

    name: str
    started: float
    seconds: float
    waits: tuple[tuple[float, float], ...] = ()
    work: tuple[Work, ...] = ()
    critical: bool = False
    link: str = ""
    outcome: str = "done"


def timeline(lanes: Sequence[Lane], seconds: float) -> str:
    """Return the rows as HTML.

    Args:
        lanes: The rows, first one first.
        seconds: How long the run took.
    """
    waits = [begin + wait for lane in lanes for begin, wait in lane.waits]
    whole = max([seconds, *(lane.started + lane.seconds for lane in lanes), *waits])
    whole = whole or 1.0
    ticks = _ticks(whole)
    grid = "".join(f'<i class="tick" style="{_at(t, whole)}"></i>' for t in ticks)
    labels = "".join(
        f'<span style="{_at(t, whole)}">{seconds_text(t) if t else "0"}</span>'
        for t in ticks
    )
    axis = (
        '<div class="lane axis"><span></span>'
        f'<div class="track">{labels}</div><span></span></div>'
    )
    rows = "".join(_lane(lane, whole, grid) for lane in lanes)
    key = "".join(f'<li><i class="{look}"></i>{text}</li>' for look, text in _KEY)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Timeline">'
        f'<div class="timeline">{axis}{rows}</div></div><ul class="key">{key}</ul>'
    )


def _ticks(whole: float) -> list[float]:
    """Return round times: steps of 1, 2 or 5 times a power of ten."""
    rough = whole / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [step * n for n in range(math.floor(whole * 0.98 / step) + 1)]


def _at(time: float, whole: float) -> str:
    return f"left:{_percent(time, whole)}"


def _percent(time: float, whole: float) -> str:
    return f"{100 * time / whole:.3f}".rstrip("0").rstrip(".") + "%"


def _lane(lane: Lane, whole: float, grid: str) -> str:
    bars = [_bar("span", lane.started, lane.seconds, whole)]
    words = f"{lane.name}: started at {seconds_text(lane.started)}"
    if lane.waits:
        bars += [_bar("wait", begin, seconds, whole) for begin, seconds in lane.waits]
        waited = sum(seconds for _, seconds in lane.waits)
        words += f", waited {seconds_text(waited)}"
    took = seconds_text(lane.seconds) if lane.outcome == "done" else lane.outcome
    words += f", took {took}" if lane.outcome == "done" else f", {took}"
    for work in lane.work:
        look = "bad" if work.failed else "work"
        bars.append(_bar(look, work.started, work.seconds, whole))
    if len(lane.work) > 1:
        failed = sum(work.failed for work in lane.work)
        words += f", {len(lane.work)} requests, {failed} failed"
    name, words = escape(lane.name), escape(words)
    who = f'<a href="#{lane.link}">{name}</a>' if lane.link else name
    return (
        f'<div class="lane{" hot" * lane.critical}">'
        f'<span class="who" title="{name}">{who}</span>'
        f'<div class="track" role="img" aria-label="{words}" title="{words}">'
        f"{grid}{''.join(bars)}</div>"
        f'<span class="took">{took}</span></div>'
    )


def _bar(look: str, started: float, seconds: float, whole: float) -> str:
    place = f"{_at(started, whole)};width:{_percent(seconds, whole)}"
    return f'<i class="{look}" style="{place}"></i>'
