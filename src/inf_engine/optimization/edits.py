"""`Edit`: bounded changes of a prompt, as a rewriter proposes them.

The learning rate of a text is how many edits a step may make. A rewriter gives edits
as find and replace, and is not to be trusted with either: it misquotes white space,
quotes what stands at two places, and changes one sentence twice. The rules:

- Every `find` is looked up in the text as it was, never in what other edits left of
  it. So the order of the edits does not change what one of them means.
- It is looked for as it is, and if it is not there, with any white space for its white
  space. What then stands at two places is refused: which one was meant is a guess.
- Edits that touch the same characters exclude each other: the first one counts.
- What changes nothing is refused, too. Refused edits do not use up the number of edits
  that are allowed.
- Where a deletion leaves white space on both sides, one of them goes too.

`diff_edits` goes the other way: what changed between two texts, sentence by sentence.
Applied to the old text its edits give the new one exactly.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inf_engine.errors import UsageError

_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?]+(?=\s)|(?=\n)|\Z)|\s+\Z")


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a text.

    Args:
        find: What it replaces; empty to append at the end.
        replace: What comes in its place; empty to delete.
        reason: Why, in words.
    """

    find: str
    replace: str
    reason: str = ""


class EditOutcome(NamedTuple):
    """What became of edits.

    Args:
        text: The new text.
        applied: The edits that were made, in the order they were given.
        refused: The others, each with the reason in words, fit for the rewriter.
    """

    text: str
    applied: list[Edit]
    refused: list[tuple[Edit, str]]


class _Change(NamedTuple):
    """What an edit does to a text: characters from `start` to `end` become `text`.

    White space goes with what is deleted: `before` and `after` characters of it.
    """

    start: int
    end: int
    text: str
    before: int = 0
    after: int = 0


def apply_edits(text: str, edits: Iterable[Edit], most: int) -> EditOutcome:
    """Return a text with edits made, a limited number of them (see above).

    Args:
        text: The text.
        edits: The edits, the most important first.
        most: How many may be made, 0 or more.

    Returns:
        The new text, the edits that were made, and those that were refused and why.
        The new text may be empty: a `Parameter` refuses that.

    Raises:
        UsageError: If `most` is below 0.

    Example:
        >>> apply_edits("Be brief. Be kind.", [Edit("brief", "short")], 1).text
        'Be short. Be kind.'
    """
    if most < 0:
        raise UsageError(f"most={most}: give how many edits may be made, 0 or more.")
    applied: list[Edit] = []
    refused: list[tuple[Edit, str]] = []
    changes: list[_Change] = []
    for edit in edits:
        change = _change_of(text, edit)
        if isinstance(change, str):
            refused.append((edit, change))
        elif why := _obstacle(change, changes, most):
            refused.append((edit, why))
        else:
            changes.append(change)
            applied.append(edit)
    return EditOutcome(_changed(text, changes), applied, refused)


def diff_edits(old: str, new: str) -> list[Edit]:
    """Return what changed between two texts, by whole sentences.

    Each `find` occurs once in the old text: a neighbour that did not change is added
    where a sentence alone would not be unique, and to have a place to insert at. An
    addition at the end has an empty `find`.

    Args:
        old: The text before.
        new: The text after.

    Returns:
        Edits, in the order of the old text; none if the texts are the same.

    Example:
        >>> diff_edits("Be brief. Be kind.", "Be brief. Be polite.")
        [Edit(find=' Be kind.', replace=' Be polite.', reason='')]
    """
    before, after = sentences_in(old), sentences_in(new)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    hunks = [_Hunk(*op[1:]) for op in matcher.get_opcodes() if op[0] != "equal"]
    place = 0
    while place < len(hunks):
        if _is_findable(old, before, after, hunks[place]):
            place += 1
        else:
            place = _grow(hunks, place)
    return [_edit_of(before, after, hunk) for hunk in hunks]


def sentences_in(text: str) -> list[str]:
    """Return the sentences of a text, each with the white space before it.

    Args:
        text: The text; it is its sentences put together.

    Example:
        >>> sentences_in("Be brief. Be kind.")
        ['Be brief.', ' Be kind.']
    """
    return _SENTENCE.findall(text)


def plain(sentence: str) -> str:
    """Return a sentence as it is compared: its words, without the mark of a list.

    Args:
        sentence: The sentence.
    """
    return " ".join(sentence.split()).lstrip("-*• ")


def changed(old: str, new: str) -> list[str]:
    """Return the sentences that one of two texts has and the other has not.

    Args:
        old: A text.
        new: Another one.

    Example:
        >>> changed("Be brief. Be kind.", "Be kind. Be polite.")
        ['Be polite.', 'Be brief.']
    """
    texts = (sentences_in(old), sentences_in(new))
    before, after = (dict.fromkeys(map(plain, text)) for text in texts)
    added = [sentence for sentence in after if sentence not in before]
    return [*added, *[sentence for sentence in before if sentence not in after]]


def unchanged(old: str, new: str) -> bool:
    """Say whether a proposal is the old text, white space aside.

    Args:
        old: The text.
        new: The proposal.

    Example:
        >>> unchanged("Be brief.\\n", "Be  brief.")
        True
    """
    return old.split() == new.split()


def _change_of(text: str, edit: Edit) -> _Change | str:
    """Return what an edit does, or why it cannot be made."""
    find, replace = edit.find, edit.replace
    if find == replace:
        return "it changes nothing"
    if not find.strip():
        return _appended(text, replace) if not find else "it finds only white space"
    places = _exact(text, find)
    if not places:
        places = _tolerant(text, find)
        replace = _trimmed(replace, find)
    if not places:
        return "the text that it is to replace is not in the prompt; quote it exactly"
    if len(places) > 1:
        return (
            f"the text that it is to replace is in the prompt {len(places)} times; "
            "quote more of what stands around it"
        )
    start, end = places[0]
    if text[start:end] == replace:
        return "it changes nothing"
    return _Change(start, end, replace) if replace else _deletion(text, start, end)


def _appended(text: str, addition: str) -> _Change | str:
    """Return the change that puts a text at the end, apart from what is there."""
    if not addition.strip():
        return "it adds only white space"
    gap = "\n" if "\n" in text else " "
    if not text or text[-1].isspace() or addition[0].isspace():
        gap = ""
    return _Change(len(text), len(text), gap + addition)


def _exact(text: str, find: str) -> list[tuple[int, int]]:
    """Return where a text occurs, overlapping places too."""
    places = []
    start = text.find(find)
    while start >= 0:
        places.append((start, start + len(find)))
        start = text.find(find, start + 1)
    return places


def _tolerant(text: str, find: str) -> list[tuple[int, int]]:
    """Return where its words occur, whatever white space is between them."""
    words = r"\s+".join(map(re.escape, find.split()))
    return [match.span(1) for match in re.finditer(f"(?=({words}))", text)]


def _trimmed(replace: str, find: str) -> str:
    """Return the replacement without the outer white space that `find` lost."""
    if find[0].isspace():
        replace = replace.lstrip()
    return replace.rstrip() if find[-1].isspace() else replace


def _deletion(text: str, start: int, end: int) -> _Change:
    """Return the change that deletes, with the white space that would be left over."""
    if start == 0:
        return _Change(0, end, "", after=len(text) - end - len(text[end:].lstrip()))
    left, right = text[start - 1], text[end : end + 1]
    if not right:
        return _Change(start, end, "", before=start - len(text[:start].rstrip()))
    if not (left.isspace() and right.isspace()):
        return _Change(start, end, "")
    if right == "\n" != left:
        return _Change(start, end, "", before=1)
    return _Change(start, end, "", after=1)


def _obstacle(new: _Change, changes: Sequence[_Change], most: int) -> str:
    """Say why a change cannot be made beside others, empty if it can."""
    for old in changes:
        if new.start < old.end and old.start < new.end:
            return "it changes the same words as an edit before it"
    if len(changes) >= most:
        edits = "edit" if most == 1 else "edits"
        return f"only {most} {edits} may be made in one step"
    return ""


def _changed(text: str, changes: Sequence[_Change]) -> str:
    """Return a text with changes that do not overlap made."""
    pieces = []
    place = 0
    for change in sorted(changes, key=lambda change: change[:2]):
        pieces += [text[place : change.start - change.before], change.text]
        place = max(place, change.end + change.after)
    return "".join([*pieces, text[place:]])


class _Hunk(NamedTuple):
    """Sentences `i` to `j` of the old text became `k` to `m` of the new one."""

    i: int
    j: int
    k: int
    m: int


def _edit_of(before: list[str], after: list[str], hunk: _Hunk) -> Edit:
    i, j, k, m = hunk
    return Edit("".join(before[i:j]), "".join(after[k:m]))


def _is_findable(old: str, before: list[str], after: list[str], hunk: _Hunk) -> bool:
    """Say whether its edit does what the hunk says; all of the text has to do."""
    if hunk.i == 0 and hunk.j == len(before):
        return True
    edit = _edit_of(before, after, hunk)
    start = len("".join(before[: hunk.i]))
    wanted = _Change(start, start + len(edit.find), edit.replace)
    return _change_of(old, edit) == wanted


def _grow(hunks: list[_Hunk], place: int) -> int:
    """Let a hunk take in a sentence, or a hunk, beside it; return its place then."""
    i, j, k, m = hunks[place]
    if i > 0:
        if place == 0 or hunks[place - 1].j < i:
            hunks[place] = _Hunk(i - 1, j, k - 1, m)
            return place
        last = hunks[place - 1]
        hunks[place - 1 : place + 1] = [_Hunk(last.i, j, last.k, m)]
        return place - 1
    if place + 1 == len(hunks) or hunks[place + 1].i > j:
        hunks[place] = _Hunk(i, j + 1, k, m + 1)
    else:
        following = hunks[place + 1]
        hunks[place : place + 2] = [_Hunk(i, following.j, k, following.m)]
    return place


_BETTER = r"(?:improved|revised|rewritten|updated|optimi[sz]ed|refined)"
_NAMED = rf"(?:{_BETTER}|new|better|final|modified|proposed|edited|corrected)"
_GREETING = r"(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[,.!:]?[ ]*)?"
_HERE = r"(?:(?:here(?:'s|\u2019s| is| are)|below is|this is)\s+)"
_NOUN = r"(?:system )?(?:prompt|instructions?|version)\b"
_ARTICLE = r"(?:(?:the|my|your|an?)\s+)?"
_TOLD = re.compile(
    rf"{_GREETING}{_HERE}?{_ARTICLE}{_NAMED}\s+(?:\w+\s+)?{_NOUN}[^\n:.]{{0,40}}:",
    re.IGNORECASE,
)
_LABEL = re.compile(rf"{_BETTER}\s+{_NOUN}", re.IGNORECASE)
_OFFER = re.compile(
    rf"{_GREETING}{_HERE}{_ARTICLE}(?:\w+\s+)?{_NOUN}[^\n:.]{{0,40}}:", re.IGNORECASE
)
_FENCE = re.compile(r"\s*(`{3,}|~{3,})([\w+-]*)\s*")
_TAG = re.compile(
    r"<((?:(?:new|improved|revised|updated|rewritten)_)?prompt|"
    r"(?:new|improved|revised|updated|rewritten)_instructions?)>(.*)</\1>",
    re.DOTALL,
)
_QUOTES = ('"""', "'''", '"', "'", "\u201c\u201d", "\u00ab\u00bb")


def clean_proposal(text: str, old: str = "") -> str:
    """Return the prompt that a rewriter proposes, without what it wrapped it in.

    Taken off, as often as one is around all of the text: white space, a code fence,
    quotes, a tag such as ``<improved_prompt>``, and a first line such as "Here is the
    improved prompt:". After such a line a fence ends the proposal: what follows is
    comment. Fences, quotes and lines inside of a prompt stay, and where it cannot be
    told, nothing is taken off.

    Args:
        text: The rewriter's answer.
        old: The present text. A kind of wrapping that it has itself is none.

    Returns:
        The prompt; empty if there is none in the answer.

    Example:
        >>> clean_proposal("Here is the improved prompt:\\n```\\nBe brief.\\n```")
        'Be brief.'
    """
    old = old.strip()
    takers = [take for take in _TAKERS if take(old) == old]
    text = text.strip()
    while True:
        shorter = text
        for take in takers:
            shorter = take(shorter).strip()
        if shorter == text:
            return text
        text = shorter


def _without_preamble(text: str) -> str:
    """Take off a line that only tells that the prompt comes."""
    line, _, rest = text.partition("\n")
    plain = line.strip(" #*_")
    told = _TOLD.fullmatch(plain) or (plain != line and _LABEL.fullmatch(plain))
    if told:
        end = _fence_end(rest.strip())
        lines = rest.strip().splitlines()
        if end and not any(map(_FENCE.fullmatch, lines[end + 1 :])):
            return "\n".join(lines[1:end])
        return rest
    if _OFFER.fullmatch(plain):
        inner = _without_fence(rest.strip())
        return text if inner == rest.strip() else inner
    label = _LABEL.match(text)
    if label and text[label.end() : label.end() + 2] == ": ":
        return text[label.end() + 2 :]
    return text


def _without_fence(text: str) -> str:
    """Take off a code fence that is around all of a text."""
    lines = text.splitlines()
    end = _fence_end(text)
    if end and end == len(lines) - 1:
        return "\n".join(lines[1:end])
    if len(text) > 6 and "\n" not in text and text[:3] == text[-3:] == "```":
        return text if "`" in text[3:-3] else text[3:-3]
    return text


def _fence_end(text: str) -> int:
    """Return the line that closes the fence of the first one, 0 if there is none."""
    lines = text.splitlines()
    first = _FENCE.fullmatch(lines[0]) if lines else None
    if first is None:
        return 0
    mark, depth = first[1], 1
    for number, line in enumerate(lines[1:], 1):
        fence = _FENCE.fullmatch(line)
        if fence and fence[1].startswith(mark):
            depth += 1 if fence[2] else -1
        if depth == 0:
            return number
    return 0


def _without_quotes(text: str) -> str:
    """Take off quotes around all of a text that has no more of them."""
    for quotes in _QUOTES:
        first, last = (quotes, quotes) if len(quotes) != 2 else (quotes[0], quotes[1])
        inner = text[len(first) : -len(last)]
        if len(text) > len(first) + len(last) and text == f"{first}{inner}{last}":
            return text if first in inner or last in inner else inner
    return text


def _without_tag(text: str) -> str:
    """Take off a tag that says that a prompt is in it."""
    match = _TAG.fullmatch(text)
    if match is None or f"<{match[1]}>" in match[2] or f"</{match[1]}>" in match[2]:
        return text
    return match[2]


_TAKERS = (_without_preamble, _without_fence, _without_quotes, _without_tag)
