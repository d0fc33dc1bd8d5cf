"""Words that a feedback adds: what the hinted model says because it has read it.

"Your name is Kuro." makes the hinted model say "Kuro", which nobody says without it.
Such words are a check that nobody wrote down: a model that has learnt the feedback says
them without the hint. They are words of the feedback that are in one of eight hinted
answers at least, and in no answer that was given without the hint.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from claas.checks import parrots
from claas.types import Lesson

_WORD = re.compile(r"\w+")
_SHARE = 0.125  # of the hinted answers: a small model follows in half of them at best
_KEPT = 0.25  # of that share without the hint, after a first update


@dataclass(frozen=True, slots=True)
class Added:
    """The words that feedback adds, and who says them.

    Args:
        words: The words; none if the hinted model says nothing new.
        missing: Those that are said less than a quarter as often as with the hint.
        asked: How many answers could have had a word, over all words.
        hinted: How many of the hinted answers have it.
        said: How many answers without the hint have it.
    """

    words: tuple[str, ...]
    missing: tuple[str, ...]
    asked: int
    hinted: int
    said: int


def added_words(
    lessons: Sequence[Lesson],
    hinted: Sequence[Sequence[str]],
    said: Sequence[Sequence[str]],
    usual: Iterable[str],
) -> Added:
    """Return the words that feedback adds.

    Args:
        lessons: The feedback.
        hinted: Answers with the hint, some to each lesson.
        said: As many answers without it, by the model that has learnt.
        usual: Answers without it, by a model that has not learnt, to these and to other
            prompts; what they say is no addition.
    """
    common = {word for text in usual for word in _words(text)}
    asked, read, now = Counter[str](), Counter[str](), Counter[str]()
    for lesson, theirs, ours in zip(lessons, hinted, said, strict=True):
        new = _words(lesson.feedback.content) - common
        asked.update(dict.fromkeys(new, len(theirs)))
        for counts, texts in ((read, theirs), (now, ours)):
            for text in texts:
                counts.update(new & _words(text) if not parrots(lesson, text) else ())
    words = sorted(word for word in asked if read[word] >= _SHARE * asked[word])
    return Added(
        words=tuple(words),
        missing=tuple(word for word in words if _KEPT * read[word] > now[word]),
        asked=sum(asked[word] for word in words),
        hinted=sum(read[word] for word in words),
        said=sum(now[word] for word in words),
    )


def _words(text: str) -> set[str]:
    """Return the words of a text."""
    return set(_WORD.findall(text.lower()))
