"""`Pruning`: which sentence of a prompt does not pay its way."""

from collections.abc import Mapping, Sequence
from typing import Any

from inf_engine.optimization.edits import pieces
from inf_engine.optimization.relevance import Relevance

WRONG = 2
LEAST = 0.5
_TOP = 1.0 - 1e-9


def without(text: str, sentence: str) -> str:
    """Return a text without a sentence, wherever it stands but at its beginning."""
    first, *rest = pieces(text)
    kept = [piece for piece in rest if " ".join(piece.split()) != sentence]
    return "".join([first, *kept])


class Pruning:
    """Finds sentences."""

    def __init__(self, relevance: Relevance, most: int) -> None:
        self._relevance = relevance
        self._most = most
        self._tried: set[tuple[str, str]] = set()

    def suspect(
        self,
        digest: str,
        values: Mapping[str, Any],
        names: Sequence[str],
        scores: Mapping[int, float],
    ) -> tuple[dict[str, Any], list[int], str] | None:
        """Return values without a sentence, and where to test it."""
        overall = sum(s < _TOP for s in scores.values()) / max(1, len(scores))
        best = None
        sentences = dict.fromkeys(
            " ".join(piece.split())
            for name in names
            if isinstance(values[name], str)
            for piece in pieces(values[name])[1:]
        )
        for sentence in sentences:
            if (digest, sentence) in self._tried:
                continue
            places = self._relevance.about(sentence, scores)[: self._most]
            wrong = sum(scores[p] < _TOP for p in places)
            if wrong < WRONG:
                continue
            share = wrong / len(places)
            if share < LEAST or share <= overall:
                continue
            if best is None or share > best[0]:
                best = share, sentence, places
        if best is None:
            return None
        _, sentence, places = best
        self._tried.add((digest, sentence))
        new = {
            n: without(values[n], sentence) if isinstance(values[n], str) else values[n]
            for n in names
        }
        return {**values, **new}, places, sentence
