"""`Exhibit`: one example as a rewriter sees it: its calls, and what was said of it.

What is shown is exact, but not everything. Of the examples that went wrong the worst
come first, and among equally bad ones those that are unlike the ones chosen before:
eight times the same mistake teach less than four different ones. A few that went right
show what has to stay. Texts too long for their share are cut in the middle. Nothing is
left to chance: the same notes give the same page.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inf_engine.errors import UsageError
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.record import Segment

_CLOSE = 1e-9
_CAPS = (6000, 3000, 1500, 800, 400, 200)  # characters of one text on the page
_IN_SHORT = 600  # characters
_TICKS = re.compile(r"`{3,}")


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One example: the calls that a text shaped in it, and what came of it.

    Args:
        notes: What notes say of it beyond the feedback.
        calls: The calls.
        feedback: What was said of the run's output.
        score: Its score, None without one.
        final: The run's output.
        target: What it should have been; empty if that is not known.
    """

    notes: tuple[str, ...] = ()
    calls: tuple[Evidence, ...] = ()
    feedback: str = ""
    score: float | None = None
    final: str = ""
    target: str = ""

    def is_right(self, high: float) -> bool:
        """Say whether nothing has to change for it.

        Args:
            high: The score of an output that needs no change.
        """
        if self.score is None:
            return not (self.feedback.strip() or self.notes)
        return self.score >= high - _CLOSE

    @property
    def words(self) -> frozenset[str]:
        """The words that tell it from others."""
        asked = " ".join([call.asked for call in self.calls])
        return frozenset(" ".join([self.feedback, *self.notes, asked]).lower().split())


def as_notes(feedback: Iterable[object]) -> tuple[Note, ...]:
    """Return what waits on a parameter as notes.

    Args:
        feedback: Notes, texts, or objects with ``content`` and ``score``.

    Raises:
        UsageError: If one is something else.
    """
    notes = []
    for item in feedback:
        content = item if isinstance(item, str) else getattr(item, "content", None)
        if not isinstance(content, str):
            raise UsageError(
                f"a parameter has feedback of type {type(item).__name__}, which says "
                "nothing to an optimizer: give notes, feedback objects or text."
            )
        score = getattr(item, "score", None)
        is_note = isinstance(item, Note)
        notes.append(item if is_note else Note(content, score, source="feedback"))
    return tuple(notes)


def needs_work(notes: Iterable[Note], high: float) -> bool:
    """Say whether notes tell of anything that is not right.

    Args:
        notes: The notes.
        high: The score of an output that needs no change.
    """
    cases, general = exhibits_of(notes)
    return any(not case.is_right(high) for case in cases) or bool(general)


def exhibits_of(notes: Iterable[Note]) -> tuple[list[Exhibit], list[str]]:
    """Return the examples that notes tell of, and what they say of several at once.

    Args:
        notes: The notes on one parameter, or on several that are coupled.
    """
    found: dict[tuple[object, ...], Exhibit] = {}
    about: dict[str, dict[tuple[object, ...], None]] = {}
    for place, note in enumerate(notes):
        said = note.content.strip()
        if not note.evidence:
            found[place,] = Exhibit(feedback=said, score=note.score)
        for call in note.evidence:
            key = _key(call)
            found[key] = _merged(found.get(key), call)
            if said and said != call.feedback.strip():
                about.setdefault(said, {})[key] = None
    for said, keys in about.items():
        if len(keys) == 1:
            key = next(iter(keys))
            found[key] = replace(found[key], notes=(*found[key].notes, said))
    return list(found.values()), [said for said, keys in about.items() if len(keys) > 1]


def chosen(
    cases: Sequence[Exhibit], high: float, failing: int, passing: int
) -> tuple[list[Exhibit], list[Exhibit]]:
    """Return the examples to show: the worst, unlike each other, and some right ones.

    Args:
        cases: All of them.
        high: The score of an output that needs no change.
        failing: The most that went wrong.
        passing: The most that went right.
    """
    wrong = [case for case in cases if not case.is_right(high)]
    right = [case for case in cases if case.is_right(high)]
    return _diverse(wrong, failing), _diverse(right, passing)


def shown(
    wrong: Sequence[Exhibit],
    right: Sequence[Exhibit],
    texts: Mapping[str, str],
    chars: int,
) -> str:
    """Return examples as a page for a rewriter, within a number of characters.

    Args:
        wrong: Those that went wrong, the most important first.
        right: Those that went right.
        texts: The texts to improve by dotted name; where one stands in a prompt as a
            whole, it is only named.
        chars: The most characters; at least one example is shown.
    """
    wrong, right = list(wrong), list(right)
    while True:
        for cap in _CAPS:
            page = _page(wrong, right, texts, cap)
            if len(page) <= chars:
                return page
        if len(wrong) + len(right) <= 1:
            return page
        (right or wrong).pop()


def in_short(notes: Iterable[Note], high: float) -> str:
    """Return what notes say of what went wrong, in a few hundred characters.

    Args:
        notes: The notes.
        high: The score of an output that needs no change.
    """
    cases, general = exhibits_of(notes)
    wrong = [case for case in cases if not case.is_right(high)]
    said = [text for case in wrong for text in (case.feedback, *case.notes)]
    texts = [" ".join(text.split()) for text in [*general, *said] if text.strip()]
    return cut("; ".join(dict.fromkeys(texts)), _IN_SHORT)


def cut(text: str, most: int) -> str:
    """Return a text of at most about so many characters, cut in the middle.

    Args:
        text: The text.
        most: How many characters of it may stay.
    """
    if len(text) <= most:
        return text
    half = most // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]} [... {left_out} characters ...] {text[-half:]}"


def fenced(text: str) -> str:
    """Return a text between fences that do not occur in it.

    Args:
        text: The text.
    """
    longest = max([len(ticks) for ticks in _TICKS.findall(text)], default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _key(call: Evidence) -> tuple[object, ...]:
    """Return what tells the examples of several batches apart."""
    return call.example, call.score, call.feedback, call.target, call.final


def _merged(case: Exhibit | None, call: Evidence) -> Exhibit:
    """Return an example with one more call."""
    if case is None:
        return Exhibit((), (call,), call.feedback, call.score, call.final, call.target)
    return case if call in case.calls else replace(case, calls=(*case.calls, call))


def _diverse(cases: Sequence[Exhibit], most: int) -> list[Exhibit]:
    """Return the worst examples, each unlike those before it."""
    scores = [0.0 if case.score is None else case.score for case in cases]
    spread = max(scores, default=0.0) - min(scores, default=0.0)
    cost = [(score - min(scores)) / spread if spread else 0.0 for score in scores]
    words = [case.words for case in cases]
    likeness = [0.0] * len(cases)
    left = list(range(len(cases)))
    found: list[Exhibit] = []
    while left and len(found) < most:
        place = min(left, key=lambda place: (cost[place] + likeness[place], place))
        left.remove(place)
        found.append(cases[place])
        for other in left:
            alike = _alike(words[place], words[other])
            likeness[other] = max(likeness[other], alike)
    return found


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    """Return how much of their words two examples have in common, 0 to 1."""
    either = len(one | other)
    return len(one & other) / either if either else 1.0


def _page(
    wrong: Sequence[Exhibit],
    right: Sequence[Exhibit],
    texts: Mapping[str, str],
    cap: int,
) -> str:
    parts = []
    if wrong:
        parts.append("# Examples that went wrong")
        parts += [_shown(n, case, texts, cap) for n, case in enumerate(wrong, 1)]
    if right:
        parts.append("# Examples that went right, and have to stay so")
        start = len(wrong) + 1
        parts += [_shown(n, case, texts, cap) for n, case in enumerate(right, start)]
    return "\n\n".join(parts)


def _shown(number: int, case: Exhibit, texts: Mapping[str, str], cap: int) -> str:
    """Return one example under its headings."""
    score = "" if case.score is None else f" (score {case.score:g})"
    lines = [f"## Example {number}{score}"]
    for call in case.calls:
        lines += _call_lines(call, texts, cap)
    last = case.calls[-1].output if case.calls else ""
    if case.final and case.final != last:
        lines += ["Result of the whole program:", fenced(cut(case.final, cap))]
    if case.target:
        lines += ["Expected result:", fenced(cut(case.target, cap))]
    if case.feedback.strip():
        lines += ["Feedback:", fenced(cut(case.feedback, cap))]
    for note in case.notes:
        lines += ["Note:", fenced(cut(note, cap))]
    return "\n".join(lines)


def _call_lines(call: Evidence, texts: Mapping[str, str], cap: int) -> list[str]:
    lines = []
    for what, pieces in (("System prompt", call.system), ("Prompt", call.prompt)):
        text = _filled(pieces, texts)
        if text.strip():
            lines += [f"{what} of {call.node}:", fenced(cut(text, cap))]
    if call.error is not None:
        lines += [f"{call.node} failed:", fenced(cut(call.error, cap))]
    else:
        lines += [f"Output of {call.node}:", fenced(cut(call.output, cap))]
    return lines


def _filled(pieces: Sequence[Segment], texts: Mapping[str, str]) -> str:
    """Return a prompt; a text to improve that is whole in it is only named."""
    return "".join(
        f"[the text of {piece.source}]"
        if piece.source is not None and texts.get(piece.source) == piece.text
        else piece.text
        for piece in pieces
    )
