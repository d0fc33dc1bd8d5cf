"""`Pruning`: which sentences of a prompt to try it without (ablation).

Rewriters add more than they take away, and some of what they add is wrong: it was
learned from an example whose label is wrong, or contradicts what the text says
elsewhere. Evidence shows the next rewriter what is missing, hardly what is too much. So
sentences are left out, and the scores say whether they were missed.

- A sentence that does harm is looked for where examples go wrong: it is suspect if at
  least half of the examples that it is about (`Relevance`) are wrong, and more of them
  than elsewhere. It is tried on the wrong ones first: if none of them comes right
  without it, nothing can be gained, and the others are not run.
- What is about nothing makes prompts longer, dearer and, if there is much of it,
  worse. Sentences whose words no example has are left out together, a quarter of all
  first, and half as many after each failure (group testing: Dorfman 1943, "The
  detection of defective members of large populations", Ann. Math. Stat. 14, 436-440).
  When two were missed one by one, no more are tried until there are new sentences.
- What several texts say alike is left out of all of them.
- The first sentence of a text stays: it says what the text is for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.edits import plain, sentences_in
from inf_engine.optimization.relevance import Relevance
from inf_engine.optimization.search import Candidate

_CLOSE = 1e-9
_TOP = 1.0 - _CLOSE  # the scores of a search are in [0, 1]
_LEAST = 2  # examples that go wrong where a sentence is suspect
_FAILURES = 2  # sentences that were missed, after which no more are tried
_SHARE = 0.5  # of the examples that it is about


@dataclass(frozen=True, slots=True)
class Cut:
    """A candidate with less in it, and where to test it.

    Args:
        candidate: The candidate.
        sentences: What was left out.
        first: The examples to run first.
        then: Those to run if it has not failed by then.
        must_gain: Whether it has to be better, and not only no worse.
    """

    candidate: Candidate
    sentences: tuple[str, ...]
    first: Sequence[int]
    then: Sequence[int]
    must_gain: bool

    def is_kept(self, verdict: Verdict) -> bool:
        """Say whether it is good enough by what was seen of it.

        Args:
            verdict: What the gate says.
        """
        return verdict.accepted and (verdict.gain.mean > 0 or not self.must_gain)


class Pruning:
    """Finds the sentences to leave out, none twice from one candidate.

    Args:
        relevance: Says which examples a sentence is about.
        names: The parameters that may be changed.
        most: The most examples to test on.
    """

    def __init__(self, relevance: Relevance, names: Sequence[str], most: int) -> None:
        self._relevance = relevance
        self._names = names
        self._most = most
        self._tried: set[tuple[str, str]] = set()
        self._seen: set[str] = set()
        self._missed: set[str] = set()
        self._size = self._failures = 0

    def harmful(self, candidate: Candidate, scores: Mapping[int, float]) -> Cut | None:
        """Return a candidate without the sentence that is most suspect, if any is.

        Args:
            candidate: The candidate.
            scores: Its scores on training examples.
        """
        wrong = [place for place, score in scores.items() if score < _TOP]
        worst, found = max(_SHARE - _CLOSE, len(wrong) / max(1, len(scores))), None
        for sentence in self._sentences(candidate):
            if (candidate.digest, sentence) in self._tried:
                continue
            about = self._relevance.about(sentence, scores)[: self._most]
            failing = [place for place in about if place in wrong]
            share = len(failing) / max(1, len(about))
            if len(failing) >= _LEAST and share > worst:
                worst = share
                found = sentence, failing, [p for p in about if p not in wrong]
        if found is None:
            return None
        sentence, failing, others = found
        self._tried.add((candidate.digest, sentence))
        less = self._without(candidate, {sentence})
        return Cut(less, (sentence,), failing, others, must_gain=True)

    def idle(self, candidate: Candidate, scores: Mapping[int, float]) -> Cut | None:
        """Return a candidate without sentences that seem to be about nothing, if any.

        Args:
            candidate: The candidate.
            scores: Its scores on training examples.
        """
        sentences = [s for s in self._sentences(candidate) if s not in self._missed]
        if not self._seen.issuperset(sentences):
            self._seen.update(sentences)
            self._size, self._failures = max(1, len(sentences) // 4), 0
        if not (sentences and scores) or self._failures >= _FAILURES:
            return None
        group = sorted(sentences, key=self._relevance.coverage)[: self._size]
        places = self._relevance.chosen(group, list(scores), 2 * self._most)
        first, then = places[: self._most], places[self._most :]
        less = self._without(candidate, set(group))
        return Cut(less, tuple(group), first, then, must_gain=False)

    def missed(self, cut: Cut) -> None:
        """Take note that a candidate was worse without some sentences, or may not be.

        Args:
            cut: What was tried.
        """
        if cut.must_gain:
            return
        if len(cut.sentences) == 1:
            self._missed.update(cut.sentences)
            self._failures += 1
        self._size = max(1, len(cut.sentences) // 2)

    def _sentences(self, candidate: Candidate) -> list[str]:
        """Return the sentences that may be left out, each once."""
        texts = [candidate.values[name] for name in self._names]
        return droppable(text for text in texts if isinstance(text, str))

    def _without(self, candidate: Candidate, sentences: set[str]) -> Candidate:
        """Return a candidate whose texts leave sentences out."""
        values = {name: candidate.values[name] for name in self._names}
        texts = {name: v for name, v in values.items() if isinstance(v, str)}
        return candidate.with_values(
            {name: without(text, sentences) for name, text in texts.items()}
        )


def droppable(texts: Iterable[str]) -> list[str]:
    """Return the sentences that may be left out: all but the first of each text.

    Args:
        texts: The texts.

    Returns:
        Each sentence once, as `plain` gives it.
    """
    each = [sentence for text in texts for sentence in sentences_in(text)[1:]]
    return [sentence for sentence in dict.fromkeys(map(plain, each)) if sentence]


def without(text: str, sentences: set[str]) -> str:
    """Return a text without some sentences; the first one of it stays.

    Args:
        text: The text.
        sentences: What to leave out, white space as `plain` gives it.

    Example:
        >>> without("Be kind. Be brief. Be kind.", {"Be kind."})
        'Be kind. Be brief.'
    """
    first, *others = sentences_in(text)
    return "".join([first, *[s for s in others if plain(s) not in sentences]])
