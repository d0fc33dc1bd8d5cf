"""What a reflector sees in a request: the prompts in it, and the evidence for rules.

The request may come from any optimizer. A prompt is known by the sentence that says
whose it is (`families.ROLES`); it goes on while lines look like its own. Evidence is
what is left: sentences that tell of a mark, and orders that stand beside an answer.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.simworld.examples import orders_in
from benchmarks.simworld.families import ROLES
from benchmarks.simworld.rules import MARK, RuleBook

_NAME_BEFORE = re.compile(r"([A-Za-z_][\w.-]*)[^\w.]*$")
_STOP = re.compile(
    r"^\s*(?:```|</|<[A-Za-z_]|\[\[|#|={3,}|-{3,}|[\"'],?\s*$|[}\]]"
    r"|(?:\(\w+\)\s*)?[\w.]+\s*=|[\w. ]{1,40}:\s*$)"
)
_ENDS = re.compile(r"</|```|[\"']\s*[,}\]]|[\"']$|\[\[ ##")
_FOCUS = re.compile(
    r"current|improve|rewrit|revise|basic_instruction|following (?:instruction|prompt)"
    r"|\bvariable\b|to be (?:changed|updated)",
    re.IGNORECASE,
)
_AVOID = re.compile(
    r"\brejected\b|did not help|made (?:it|things|the score) worse|already tried"
    r"|do not (?:repeat|add|use|try)|\bfailed (?:edits|attempts|proposals)\b",
    re.IGNORECASE,
)
_CUT = re.compile(r"\.\.\.|…")
_HEADING = re.compile(r"^\s*(?:#|```|</|<[A-Za-z_]|={3,}|-{3,})")


@dataclass(frozen=True, slots=True)
class Found:
    """A prompt that stands in a request.

    Args:
        stage: The number of the stage it is for.
        start: Where it begins.
        end: Where it ends.
        text: Its text, lines trimmed.
        name: The word before it, perhaps its name there.
        focus: How much the words before it ask for a new one.
    """

    stage: int
    start: int
    end: int
    text: str
    name: str
    focus: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a mark where a rule applies.

    Args:
        rule: The number of the rule whose condition is seen.
        mark: The mark.
        told: Whether a sentence says so; else it is to be inferred.
        warned: Whether that sentence is among what did not help.
    """

    rule: int
    mark: str
    told: bool
    warned: bool = False


def unescaped(text: str) -> str:
    """Return a text with the line ends and quotes of JSON as themselves."""
    return text.replace("\\n", "\n").replace('\\"', '"')


def prompts_in(text: str, stages: Sequence[str]) -> list[Found]:
    """Return every prompt in a text, in order.

    Args:
        text: A request.
        stages: The names of the stages that there are.
    """
    starts = []
    for number, stage in enumerate(stages):
        role = r"\s+".join(map(re.escape, ROLES[stage].rstrip(".").split()))
        starts += [(match.start(), number) for match in re.finditer(role, text)]
    starts.sort()
    ends = [text.rfind("\n", 0, start) + 1 for start, _ in starts[1:]]
    return [
        _found(text, number, start, end if end > start else len(text))
        for (start, number), end in zip(starts, [*ends, len(text)], strict=False)
    ]


def current(found: Sequence[Found]) -> list[Found]:
    """Return one prompt for each stage: the one that the request is most about.

    Cut ones count only if there is no other; then what the words before it say, how
    often it stands there, and which comes first.
    """
    often = Counter((prompt.stage, prompt.text) for prompt in found)
    best: dict[int, Found] = {}
    for prompt in found:
        held = best.get(prompt.stage)
        if held is None or _rank(prompt, often) > _rank(held, often):
            best[prompt.stage] = prompt
    return sorted(best.values(), key=lambda prompt: prompt.start)


def _rank(prompt: Found, often: Counter[tuple[int, str]]) -> tuple[bool, int, int]:
    """How much a prompt is what the request is about."""
    whole = _CUT.search(prompt.text) is None
    return whole, prompt.focus, often[prompt.stage, prompt.text]


def _found(text: str, stage: int, start: int, most: int) -> Found:
    """The prompt that starts at a place and ends before another."""
    end = start
    kept: list[str] = []
    for line in text[start:most].splitlines(keepends=True):
        if kept and (_STOP.match(line) or (not line.strip() and _over(text, end))):
            break
        stop = _ENDS.search(line)
        kept.append((line[: stop.start()] if stop else line).strip())
        end += stop.start() if stop else len(line)
        if stop:
            break
    before = text[max(0, start - 200) : start]
    name = _NAME_BEFORE.search(before)
    lines = "\n".join(line for line in kept if line)
    focus = len(_FOCUS.findall(before[-120:]))
    return Found(stage, start, end, lines, name.group(1) if name else "", focus)


def _over(text: str, place: int) -> bool:
    """Whether a prompt ends at a blank line: what follows is no list of its own."""
    following = text[place:].lstrip()
    return not re.match(r"[-*•] |\d+[.)] |If |When |Write ", following)


def evidence_in(text: str, found: Sequence[Found], book: RuleBook) -> list[Evidence]:
    """Return the evidence in a text, what is in its prompts left out.

    Args:
        text: A request.
        found: The prompts in it.
        book: The rules; what they are is not looked at, only who owns a mark.
    """
    rest, place = [], 0
    for prompt in found:
        rest.append(text[place : max(place, prompt.start)])
        place = max(place, prompt.end)
    left = "\n".join([*rest, text[place:]])
    return [*_told(left, book), *_shown(left, book)]


def _told(text: str, book: RuleBook) -> Iterator[Evidence]:
    """What sentences say."""
    warned = False
    for line in text.splitlines():
        if not line.strip() or _HEADING.match(line):
            warned = False
        warned = warned or _AVOID.search(line) is not None
        for claim in book.claims(line):
            if not claim.denied:
                yield Evidence(claim.rule, claim.mark, told=True, warned=warned)


def _shown(text: str, book: RuleBook) -> Iterator[Evidence]:
    """What orders show that stand beside marks, where no sentence says it."""
    for order in orders_in(text).values():
        marks = list(dict.fromkeys(mark.upper() for mark in MARK.findall(order)))
        said = {claim.rule for claim in book.claims(order)}
        for rule in book.about(order):
            if rule.id not in said:
                yield from (
                    Evidence(rule.id, mark, told=False)
                    for mark in marks
                    if book.owner(mark) == rule.id
                )
