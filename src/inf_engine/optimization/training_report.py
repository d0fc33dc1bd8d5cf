"""The training report: one HTML page that needs no network and no script.

What is asked first stands first: did it get better, by how much, for how much. Then the
score of every candidate over the rollouts, the tree of candidates, each text with where
its sentences came from, and the steps with what was said and what it brought. A page is
bounded: it says how much it leaves out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inf_engine.optimization.edits import diff_edits
from inf_engine.optimization.intervals import Interval
from inf_engine.optimization.lineage import Lineage, LineageStep, Origin, sentences
from inf_engine.optimization.purse import Spent
from inf_engine.optimization.search import Candidate
from inf_engine.optimization.trajectory import (
    CandidateAccepted,
    CandidateRejected,
    Decision,
    Evaluated,
    History,
)
from inf_engine.pages import cards
from inf_engine.pages.layout import Box, arrange
from inf_engine.pages.markup import (
    Piece,
    counted,
    escape,
    page,
    seconds_text,
    text_block,
    usd_text,
)
from inf_engine.report import STYLE

_MOST_POINTS = 2_000
_MOST_BOXES = 150
_MOST_STEPS = 200
_WIDTH, _HEIGHT = 1000.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 14.0, 30.0
_BOX_WIDTH, _BOX_HEIGHT = 74.0, 34.0

_OWN_STYLE = """
.chart svg,.tree svg{display:block;max-width:100%;height:auto}
.tree svg{margin:0 auto;min-width:calc(var(--width)*.7)}
svg text{font:12px var(--sans);fill:var(--soft)}
.grid{stroke:var(--grid)}.axis{stroke:var(--line)}
.train{fill:none;stroke:var(--wait);stroke-width:1.5}
.val{fill:var(--work);stroke:var(--panel);stroke-width:1}
.best{fill:none;stroke:var(--hot);stroke-width:2.5}
.edge{fill:none;stroke:var(--line);stroke-width:1.5}
.edge.on{stroke:var(--hot);stroke-width:2.5}
.box rect{fill:var(--node);stroke:var(--node-l)}
.box text{fill:var(--ink);text-anchor:middle}
.box .small{font-size:11px;fill:var(--soft)}
.box.no rect{fill:var(--panel);stroke:var(--line);stroke-dasharray:4 3}
.box.top rect{stroke:var(--hot);stroke-width:2.5}
.key{display:inline-block;width:12px;height:12px;border-radius:50%;margin-right:6px;
vertical-align:-1px;background:var(--work)}
.key.t{background:none;border:2px solid var(--wait)}
.key.b{height:3px;border-radius:2px;width:18px;vertical-align:4px;background:var(--hot)}
.origin{list-style:none;margin:0;padding:0}
.origin li{display:flex;gap:12px;padding:5px 0;border-bottom:1px solid var(--line)}
.origin li:last-child{border-bottom:0}
.origin .from{flex:0 0 62px;font:600 12px/1.9 var(--mono);color:var(--soft)}
.origin .said{overflow-wrap:anywhere;white-space:pre-wrap;min-width:0}
.origin .new{background:var(--param);border-radius:3px;padding:1px 3px}
ins,del{text-decoration:none;border-radius:3px;padding:1px 3px;overflow-wrap:anywhere;
white-space:pre-wrap;-webkit-box-decoration-break:clone;box-decoration-break:clone}
ins{background:var(--node);box-shadow:inset 0 -2px var(--node-l)}
del{background:var(--err-bg);text-decoration:line-through}
.diff p{margin:4px 0}
.step{margin:0 0 14px}
.step h3{display:flex;flex-wrap:wrap;gap:4px 12px;font-size:15px;color:var(--ink)}
.step h3 small{font-weight:400;color:var(--soft)}
.step h4{font-size:13px;margin:10px 0 4px;color:var(--soft)}
.step ul{margin:4px 0;padding-left:20px;font-size:14px;overflow-wrap:anywhere}
.refused{opacity:.85}
"""


class ResultShape(Protocol):
    """What the report reads of a `TrainingResult`."""

    @property
    def best(self) -> Candidate: ...
    @property
    def start(self) -> Candidate: ...
    @property
    def score(self) -> Interval: ...
    @property
    def baseline(self) -> Interval: ...
    @property
    def stopped(self) -> str: ...
    @property
    def rollouts(self) -> int: ...
    @property
    def spent(self) -> Spent: ...
    @property
    def history(self) -> History: ...
    @property
    def lineage(self) -> Lineage: ...
    @property
    def improved(self) -> bool: ...


def training_report_html(result: ResultShape) -> str:
    """Return the page about a training as text.

    Args:
        result: What the training gave.
    """
    parts = [
        _header(result),
        _section("Scores", _curves(result.history, result.start), _LEGEND),
        _section("Candidates", _tree(result)),
        _section("Texts", _texts(result)),
        _section("Steps", _steps(result)),
    ]
    body = f"<main>{''.join(parts)}</main>"
    return page("Training · inf-engine", STYLE + cards.STYLE + _OWN_STYLE, body)


_LEGEND = (
    '<p class="legend"><span><i class="key"></i>held-out mean of a candidate</span>'
    '<span><i class="key t"></i>training mean of a candidate</span>'
    '<span><i class="key b"></i>best so far</span></p>'
)


def _section(title: str, body: str, before: str = "") -> str:
    return (
        f'<section id="{title.lower()}"><h2>{title}</h2>{before}'
        f'<div class="panel">{body}</div></section>'
    )


def _header(result: ResultShape) -> str:
    spent, decisions = result.spent, result.history.decisions
    accepted = sum(isinstance(event, CandidateAccepted) for event in decisions)
    word, look = ("improved", "done") if result.improved else ("unchanged", "cancelled")
    cost = None if spent.unpriced and not spent.usd else spent.usd
    unpriced = f"no price for {spent.unpriced:,} answers" if spent.unpriced else ""
    facts = (
        ("Score", _mean(result.score), _range(result.score)),
        ("Before", _mean(result.baseline), _range(result.baseline)),
        ("Candidates", f"{len(decisions):,}", f"{accepted:,} accepted"),
        ("Rollouts", f"{result.rollouts:,}", "runs of the module"),
        ("Requests", f"{spent.requests:,}", f"{spent.reused:,} answers used again"),
        ("Tokens", f"{spent.tokens:,}", "read and written"),
        ("Cost", usd_text(cost), unpriced),
        ("Took", seconds_text(spent.seconds), ""),
    )
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>"
        for name, value, more in facts
    )
    names = ("Scores", "Candidates", "Texts", "Steps")
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in names)
    return (
        f'<header><div class="top"><h1>Training</h1><span class="badge {look}">{word}'
        f'</span></div><p class="none">Stopped: {escape(result.stopped)}</p>'
        f'<dl class="facts">{shown}</dl><nav aria-label="Sections">{links}</nav>'
        "</header>"
    )


def _mean(interval: Interval) -> str:
    return f"{interval.mean:.3f}" if interval.n else "none"


def _range(interval: Interval) -> str:
    if not interval.n:
        return "not scored"
    return f"{interval.low:.3f} to {interval.high:.3f}, n = {interval.n:,}"


# -- curves -----------------------------------------------------------------------


def _curves(history: History, start: Candidate) -> str:
    """Return the scores of candidates over rollouts as a picture."""
    events = [event for event in history.evaluations if event.mean is not None]
    if not events:
        return '<p class="none">nothing was scored</p>'
    left = len(events) - _MOST_POINTS
    events = events[:_MOST_POINTS]
    most = max(event.rollouts for event in events)
    parts = [_axes(most)]
    parts += [_point(event, most) for event in events if event.split == "train"]
    parts += [_point(event, most) for event in events if event.split == "val"]
    parts.append(_best_line(history, events, start, most))
    more = f'<p class="none">{left:,} more left out</p>' if left > 0 else ""
    return (
        '<div class="chart scroll" tabindex="0" role="region" aria-label="Scores">'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}" '
        f'style="min-width:560px" role="img" aria-label="Scores over rollouts">'
        f"{''.join(parts)}</svg></div>{more}"
    )


def _x(rollouts: float, most: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * rollouts / max(1, most)


def _y(score: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - score)


def _axes(most: int) -> str:
    parts = []
    for tenth in range(0, 11, 2):
        y = _y(tenth / 10)
        parts.append(
            f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text x="{_LEFT - 8:g}" y="{y + 4:.1f}" '
            f'text-anchor="end">{tenth / 10:.1f}</text>'
        )
    for count in dict.fromkeys(round(most * k / 5) for k in range(6)):
        anchor = "end" if count == most else "middle"
        parts.append(
            f'<text x="{_x(count, most):.1f}" y="{_HEIGHT - 8:g}" '
            f'text-anchor="{anchor}">{count:,}</text>'
        )
    return "".join(parts)


def _point(event: Evaluated, most: int) -> str:
    assert event.mean is not None
    look = "val" if event.split == "val" else "train"
    size = 5 if look == "val" else 3.5
    title = (
        f"{event.candidate.digest[:6]} on {event.covered} {event.split} examples: "
        f"{event.mean:.3f} after {event.rollouts:,} rollouts"
    )
    return (
        f'<circle class="{look}" cx="{_x(event.rollouts, most):.1f}" '
        f'cy="{_y(event.mean):.1f}" r="{size:g}"><title>{escape(title)}</title>'
        "</circle>"
    )


def _best_line(
    history: History, events: Sequence[Evaluated], start: Candidate, most: int
) -> str:
    """Return the score of the best candidate of each moment, as a line of steps."""
    split = "val" if any(event.split == "val" for event in events) else "train"
    final = {e.candidate.digest: e.mean for e in events if e.split == split}
    turns = [(0, start.digest)]
    turns += [
        (event.rollouts, event.candidate.digest)
        for event in history.decisions
        if isinstance(event, CandidateAccepted) and event.is_best
    ]
    points: list[tuple[float, float]] = []
    for rollouts, digest in turns:
        score = final.get(digest)
        if score is not None:
            x, y = _x(rollouts, most), _y(score)
            points += [(x, points[-1][1]), (x, y)] if points else [(x, y)]
    if not points:
        return ""
    points.append((_x(most, most), points[-1][1]))
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="best" points="{text}"/>'


# -- the tree ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spot:
    """A candidate in the tree."""

    digest: str
    row: int
    label: str
    accepted: bool
    link: str


def _tree(result: ResultShape) -> str:
    """Return the candidates and what each was made from as a picture."""
    spots: dict[str, _Spot] = {}
    start = result.start.digest
    spots[start] = _Spot(start, 0, "start", True, "")
    edges: list[tuple[str, str]] = []
    decisions = _chosen(result.history.decisions, _MOST_BOXES)
    for event in decisions:
        accepted = isinstance(event, CandidateAccepted)
        parents = [p.digest for p in event.parents if p.digest in spots]
        row = 1 + max([spots[p].row for p in parents], default=0)
        digest = event.candidate.digest
        if digest not in spots:
            link = f"s{event.number}"
            spots[digest] = _Spot(digest, row, f"#{event.number}", accepted, link)
            edges += [(parent, digest) for parent in parents]
    picture = _tree_svg(spots, edges, result)
    left = len(result.history.decisions) - len(decisions)
    more = f'<p class="none">{left:,} more left out</p>' if left else ""
    note = '<p class="none">dashed: rejected; the best one and its way are marked</p>'
    return (
        '<div class="tree scroll picture" tabindex="0" role="region" '
        f'aria-label="Candidates">{picture}</div>{note}{more}'
    )


def _chosen(decisions: Sequence[Decision], most: int) -> list[Decision]:
    """Return at most so many decisions: accepted ones first, in their order."""
    order = sorted(decisions, key=lambda e: isinstance(e, CandidateRejected))[:most]
    return sorted(order, key=lambda event: event.number)


def _tree_svg(
    spots: Mapping[str, _Spot], edges: Sequence[tuple[str, str]], result: ResultShape
) -> str:
    numbers = {digest: number for number, digest in enumerate(spots)}
    boxes = [Box(_BOX_WIDTH, _BOX_HEIGHT, spot.row) for spot in spots.values()]
    routes = arrange(boxes, [(numbers[a], numbers[b]) for a, b in edges])
    on = _way(result.best.digest, edges)
    width = max(box.x + box.width / 2 for box in boxes) + 8
    height = max(box.y + box.height for box in boxes) + 8
    parts = []
    for (_, child), points in zip(edges, routes, strict=True):
        text = " ".join(f"{x + 4:.1f},{y + 4:.1f}" for x, y in points)
        look = "edge on" if child in on else "edge"
        parts.append(f'<polyline class="{look}" points="{text}"/>')
    scores = _last_scores(result.history)
    for spot, box in zip(spots.values(), boxes, strict=True):
        parts.append(_box_svg(spot, box, scores, result.best.digest))
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" style="--width:{width:.0f}px" role="img" '
        f'aria-label="Tree of candidates">{"".join(parts)}</svg>'
    )


def _box_svg(
    spot: _Spot, box: Box, scores: Mapping[str, tuple[str, float]], best: str
) -> str:
    look = (
        "box"
        + ("" if spot.accepted else " no")
        + (" top" if spot.digest == best else "")
    )
    x, y = box.x - box.width / 2 + 4, box.y + 4
    split, score = scores.get(spot.digest, ("", -1.0))
    small = f"{split} {score:.2f}" if split else "not scored"
    body = (
        f'<g class="{look}"><rect x="{x:.1f}" y="{y:.1f}" width="{box.width:g}" '
        f'height="{box.height:g}" rx="6"/><text x="{box.x + 4:.1f}" y="{y + 14:.1f}">'
        f'{spot.label}</text><text class="small" x="{box.x + 4:.1f}" '
        f'y="{y + 28:.1f}">{small}</text></g>'
    )
    return f'<a href="#{spot.link}">{body}</a>' if spot.link else body


def _way(best: str, edges: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Return the candidates between the start and the best one."""
    found, open_ = {best}, [best]
    while open_:
        here = open_.pop()
        for parent, child in edges:
            if child == here and parent not in found:
                found.add(parent)
                open_.append(parent)
    return frozenset(found)


def _last_scores(history: History) -> dict[str, tuple[str, float]]:
    """Return the mean of each candidate: the held-out one, if there is one."""
    found: dict[str, tuple[str, float]] = {}
    for event in history.evaluations:
        digest = event.candidate.digest
        if event.mean is not None:
            if event.split == "val" or found.get(digest, ("train",))[0] == "train":
                found[digest] = (event.split, event.mean)
    return found


# -- texts and steps --------------------------------------------------------------


def _texts(result: ResultShape) -> str:
    """Return each parameter: its sentences with their origin, and what changed."""
    parts = []
    for name, value in result.best.values.items():
        before = result.start.values.get(name)
        origins = result.lineage.origins.get(name, ())
        diff = _diff(_text(before), _text(value)) if before != value else ""
        changed = diff or '<p class="none">not changed</p>'
        parts.append(
            f"<h3>{escape(name)}</h3>{_origin_list(origins)}"
            f"<details><summary>what changed since the start</summary>"
            f'<div class="diff">{changed}</div></details>'
        )
    return "".join(parts) or '<p class="none">no parameter</p>'


def _origin_list(origins: Sequence[Origin]) -> str:
    rows = []
    for origin in origins:
        if origin.step:
            source = f'<a href="#s{origin.step}">step #{origin.step}</a>'
            said = f'<span class="new">{escape(origin.sentence)}</span>'
        else:
            source, said = "start", escape(origin.sentence)
        rows.append(
            f'<li><span class="from">{source}</span>'
            f'<span class="said">{said}</span></li>'
        )
    return f'<ul class="origin">{"".join(rows)}</ul>'


def _diff(old: str, new: str) -> str:
    """Return what changed between two texts, sentence by sentence."""
    rows = []
    for edit in diff_edits(old, new):
        old_text, new_text = edit.find.strip(), edit.replace.strip()
        gone = f"<del>{escape(old_text)}</del> " if old_text else ""
        come = f"<ins>{escape(new_text)}</ins>" if new_text else ""
        rows.append(f"<p>{gone}{come}</p>")
    return "".join(rows)


def _steps(result: ResultShape) -> str:
    decisions = _chosen(result.history.decisions, _MOST_STEPS)
    steps = {step.number: step for step in result.lineage.steps}
    parts = [_step(event, steps.get(event.number)) for event in decisions]
    left = len(result.history.decisions) - len(decisions)
    if left:
        parts.append(
            f'<p class="none">{counted(left, "rejected candidate")} left out</p>'
        )
    return "".join(parts) or '<p class="none">no candidate was made</p>'


def _step(event: Decision, step: LineageStep | None) -> str:
    """Return one decision: why, what changed, and what it was made from."""
    if isinstance(event, CandidateAccepted):
        gain = event.verdict.gain
        word, why, look = "accepted", event.verdict.reason, "step"
        gained = (
            f"gain {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], n = {gain.n}"
        )
    else:
        word, why, look, gained = "rejected", event.reason, "step refused", ""
    parts = [
        f'<article class="{look}" id="s{event.number}"><h3>#{event.number} {word}'
        f"<small>{gained}</small><small>after {event.rollouts:,} rollouts</small></h3>"
        f"{text_block([Piece(why)])}"
    ]
    said = {} if step is None else {c.parameter: c.evidence for c in step.changes}
    for change in event.changes:
        reason = f"<p>{escape(change.reason)}</p>" if change.reason else ""
        parts.append(f"<h4>{escape(change.parameter)}</h4>{reason}")
        diff = _diff(_text(change.before), _text(change.after))
        parts.append(f'<div class="diff">{diff}</div>')
        rows = [f"<li>{escape(text)}</li>" for text in said.get(change.parameter, ())]
        if rows:
            parts.append(
                "<details><summary>what was said of the outputs before</summary>"
                f"<ul>{''.join(rows)}</ul></details>"
            )
    return "".join([*parts, "</article>"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(sentences(value))
