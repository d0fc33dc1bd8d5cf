"""`Relevance`: which examples a sentence of a prompt may be about.

A change of a text is best tested where it can make a difference: a new rule about
gifts on examples with gifts, those that are right already above all. Nothing tells
exactly which these are, but words do well: an example and a sentence that share words
which few other examples have are probably about the same thing. So words are weighed by
how rare they are among the examples (inverse document frequency: Sparck Jones 1972, "A
statistical interpretation of term specificity", J. Documentation 28, 11-21).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_SHARE = 0.5  # of what the example that shares most has in common with a sentence
_WORD = re.compile(r"\w+(?:[-'.]\w+)*")


class Relevance:
    """The words of the examples that were seen."""

    def __init__(self) -> None:
        self._words: dict[int, set[str]] = {}
        self._often: Counter[str] = Counter()

    def add(self, place: int, texts: Iterable[Any]) -> None:
        """Take note of what an example says.

        Args:
            place: The example; what it says elsewhere is added to it.
            texts: Its inputs, its target, what was said of it; what is no text is
                read as Python shows it.
        """
        words = {word for text in texts for word in words_in(str(text))}
        known = self._words.setdefault(place, set())
        self._often.update(words - known)
        known |= words

    def about(self, sentence: str, places: Iterable[int]) -> list[int]:
        """Return the examples that a sentence may be about, the most probable first.

        These are the ones that share at least half as much with it as any does.

        Args:
            sentence: The sentence.
            places: The examples to choose from; of equal ones the first comes first.
        """
        weights = self._weights(sentence, places)
        least = _SHARE * max(weights.values(), default=0.0)
        found = [place for place, weight in weights.items() if weight >= least > 0.0]
        return sorted(found, key=lambda place: -weights[place])

    def coverage(self, sentence: str) -> float:
        """Return how much of a sentence is found in one example at most, 0 to 1.

        Args:
            sentence: The sentence; a rare word counts more than a common one.
        """
        total = len(self._words) + 1
        words = sorted(words_in(sentence))
        whole = math.fsum(math.log(total / (self._often[w] + 1)) for w in words)
        most = max(self._weights(sentence, self._words).values(), default=0.0)
        return min(1.0, most / whole) if whole > 0.0 else 0.0

    def chosen(
        self, sentences: Sequence[str], places: Sequence[int], most: int
    ) -> list[int]:
        """Return examples that sentences may be about: the best of each in turn.

        Args:
            sentences: The sentences.
            places: The examples to choose from; those that come first fill up.
            most: How many to return.
        """
        queues = [self._ranked(sentence, places) for sentence in sentences]
        found: dict[int, None] = {}
        while len(found) < most and any(queues):
            for queue in queues:
                new = next((place for place in queue if place not in found), None)
                if new is None:
                    queue.clear()
                elif len(found) < most:
                    found[new] = None
        found |= dict.fromkeys(places)
        return list(found)[:most]

    def _ranked(self, sentence: str, places: Iterable[int]) -> list[int]:
        """Return the examples that share something with a sentence, the most first."""
        weights = self._weights(sentence, places)
        found = [place for place, weight in weights.items() if weight > 0.0]
        return sorted(found, key=lambda place: -weights[place])

    def _weights(self, sentence: str, places: Iterable[int]) -> dict[int, float]:
        """Return how much each example shares with a sentence."""
        total = len(self._words)
        rare = {
            w: math.log(total / self._often[w])
            for w in words_in(sentence)
            if self._often[w]
        }
        return {
            place: math.fsum(rare[w] for w in self._words.get(place, ()) if w in rare)
            for place in places
        }


def words_in(text: str) -> set[str]:
    """Return the words of a text, in lower case.

    Args:
        text: The text.

    Example:
        >>> sorted(words_in("Don't be brief. Don't!"))
        ['be', 'brief', "don't"]
    """
    return set(_WORD.findall(text.lower()))
