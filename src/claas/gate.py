"""The gate: whether a candidate may serve.

It is compared with the version before it, on the same prompts with the same seeds:

    feedback    probes of the new feedback: more answers must follow it
    kept        probes of earlier feedback: none may be lost; ``remembered`` where there
                is no verifier: what was learnt may not become unlikely
    drift       KL(base ‖ candidate) on the base's answers to unrelated prompts
    capability  small questions with a known answer
    entropy, length, repetition   of answers to unrelated prompts

A gain must be sure: the lower end of its interval has to be above the limit. Drift must
surely be small: the upper end has to be below it. Of losses on `kept` and `capability`
the measured value decides, since the interval of a few answers would excuse anything.
Where no verifier exists for a feedback, its gain is measured as the log probability of
the hinted model's answers, and the figure is called ``margin``. That is a mean over
tokens: answers to "Your name is Kuro." become likelier under a candidate that says "I'm
Kira.", too. So ``words`` looks at what is generated: the words of the feedback that the
hinted model says, and that nobody says without the hint, are what the feedback adds;
each must be in a quarter as many of the candidate's answers at least. Feedback without
such words (about length or tone) is judged by log probabilities alone, and the reason
says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from claas.base import Base, Sampled
from claas.checks import Verifier, parrots, repetition, verifier_of
from claas.errors import ConfigurationError
from claas.hints import Hints
from claas.intervals import Change, mean_change, share_change
from claas.likelihoods import divergences, likelihoods
from claas.probes import probes_of
from claas.tuning import GateLimits
from claas.types import Check, Feedback, Lesson, Probe, Receipt, Verdict
from claas.words import added_words

_LEAST_NATS = 0.2  # an entropy may change by so much, however small it was
_LEAST_TOKENS = 2.0
_GAINS = ("feedback", "margin", "words")


class Gate:
    """Judges candidates on a base model that stays loaded.

    Args:
        base: The model.
        settings: The limits.
        hints: The templates; None for those of the base's name.
    """

    def __init__(
        self,
        base: Base,
        settings: GateLimits | None = None,
        hints: Hints | None = None,
    ) -> None:
        self.base = base
        self.settings = settings or GateLimits()
        self.hints = hints or Hints.of(base.name)

    def judge(
        self,
        before: Path | None,
        after: Path,
        lessons: Sequence[Lesson],
        probes: Sequence[Lesson] = (),
    ) -> Verdict:
        """Compare a candidate with the version before it.

        Args:
            before: The adapter that serves, in PEFT's files; None for the base itself.
            after: The candidate.
            lessons: What the candidate was trained on.
            probes: The lessons of earlier updates, which must not be lost.

        Returns:
            The verdict; its figures have before, after, change, low, high, count, limit
            and ``is_good`` for each check, plain data.

        Raises:
            ConfigurationError: If there are no lessons, or an adapter does not fit.
        """
        if not lessons:
            raise ConfigurationError(
                "there is nothing to judge a candidate by: it has no lesson."
            )
        with self.base.adapter(before) as old, self.base.adapter(after) as new:
            looked = _Look(self, (old, new))
            found = [
                *looked.feedback(probes_of(lessons, self.settings.most)),
                *looked.kept(probes_of(probes, self.settings.most)),
                looked.drift(),
                *looked.answers(),
                *looked.capability(),
            ]
        return _verdict(found)


@dataclass(frozen=True, slots=True)
class _Checked:
    """One check of the gate."""

    name: str
    change: Change
    limit: float
    is_good: bool
    said: str

    def figures(self) -> dict[str, Any]:
        """Return it as plain data."""
        change = self.change
        return {
            **{"before": change.before, "after": change.after},
            **{"change": change.change, "low": change.low, "high": change.high},
            **{"count": change.count, "limit": self.limit, "is_good": self.is_good},
        }


class _Look:
    """Looks at two adapters in turn."""

    def __init__(self, gate: Gate, names: tuple[str | None, str | None]) -> None:
        self._base = gate.base
        self._names = names
        self._settings = gate.settings
        self._hints = gate.hints

    def feedback(self, probes: Sequence[Probe]) -> Iterable[_Checked]:
        """Whether the new feedback is followed more."""
        settings = self._settings
        verified, others = _by_verifier(probes)
        if verified:
            counts = self._followed(verified)
            total = len(verified) * settings.samples
            change = share_change(
                *(sum(some) for some in counts), total, settings.confidence
            )
            said = (
                f"compliance with the feedback went from {change.before:.0%} to "
                f"{change.after:.0%} (change at least {change.low:+.0%})"
            )
            good = change.low > settings.gain
            yield _Checked("feedback", change, settings.gain, good, said)
        if others:
            hinted = self._hinted(others)
            words = self._words(others, hinted)
            yield self._margin(others, hinted, is_alone=words is None)
            if words is not None:
                yield words

    def kept(self, probes: Sequence[Probe]) -> Iterable[_Checked]:
        """Whether earlier feedback is still followed; each feedback counts alone."""
        settings = self._settings
        verified, others = _by_verifier(probes)
        if others:
            yield self._remembered(others)
        if not verified:
            return
        old, new = self._followed(verified)
        ids = [probe.lesson.feedback.id for probe, _ in verified]
        lost = [one for one in dict.fromkeys(ids) if _is_lost(one, ids, old, new)]
        total = len(verified) * settings.samples
        change = share_change(sum(old), sum(new), total, settings.confidence)
        good = change.change >= -settings.loss and not lost
        said = (
            f"compliance with earlier feedback went from {change.before:.0%} to "
            f"{change.after:.0%}"
        )
        said += f"; lost: {', '.join(lost)}" if lost else ""
        yield _Checked("kept", change, -settings.loss, good, said)

    def drift(self) -> _Checked:
        """How far the candidate is from the base where nothing was asked for."""
        settings, base = self._settings, self._base
        prompts = self._prompts(settings.unrelated)
        answers = [answer.token_ids for answer in self._plain]
        old, new = (divergences(base, prompts, answers, name) for name in self._names)
        change = mean_change(old, new, settings.confidence)
        width = mean_change([0.0] * len(new), new, settings.confidence).high
        text = (
            f"KL to the base on unrelated prompts is {change.after:.3f} nats a token "
            f"(at most {width:.3f}; limit {settings.drift})"
        )
        good = width <= settings.drift
        return _Checked("drift", change, settings.drift, good, text)

    def answers(self) -> Iterable[_Checked]:
        """Whether answers to unrelated prompts look as before."""
        settings = self._settings
        prompts = self._prompts(settings.unrelated)
        old, new = (
            self._base.sample(prompts, name, most=settings.tokens, seed=settings.seed)
            for name in self._names
        )
        yield self._shape("entropy", _entropy, old, new, settings.entropy, _LEAST_NATS)
        yield self._shape("length", _length, old, new, settings.length, _LEAST_TOKENS)
        change = self._change(_repeated, old, new)
        limit = max(settings.repetition, change.before + 0.1)
        said = (
            f"{change.after:.0%} of the runs of three tokens stood in the answer before"
            f" (limit {limit:.0%})"
        )
        good = change.after <= limit
        yield _Checked("repetition", change, limit, good, said)

    def capability(self) -> Iterable[_Checked]:
        """Whether small questions are still answered."""
        settings, base = self._settings, self._base
        if not settings.capabilities:
            return
        prompts = self._prompts([asked.prompt for asked in settings.capabilities])
        hits = []
        for name in self._names:
            said = base.sample(prompts, name, most=settings.tokens, temperature=0.0)
            pairs = zip(settings.capabilities, said, strict=True)
            hits.append(sum(is_right(asked.required, a.text) for asked, a in pairs))
        change = share_change(hits[0], hits[1], len(prompts), settings.confidence)
        text = f"{hits[1]} of {len(prompts)} small questions right, {hits[0]} before"
        good = change.change >= -settings.ability
        yield _Checked("capability", change, -settings.ability, good, text)

    def _followed(
        self, probes: Sequence[tuple[Probe, Verifier]]
    ) -> tuple[list[int], list[int]]:
        """Return how many answers to each probe follow it, before and after."""
        many = self._settings.samples
        prompts = [self._asked(probe, probe.messages) for probe, _ in probes]
        counts: list[list[int]] = []
        for name in self._names:
            said = self._several(prompts, name)
            counts.append(
                [
                    _follow(probe, verifier, said[at * many : (at + 1) * many])
                    for at, (probe, verifier) in enumerate(probes)
                ]
            )
        return counts[0], counts[1]

    @cached_property
    def _plain(self) -> list[Sampled]:
        """What the base answers to unrelated prompts."""
        settings, prompts = self._settings, self._prompts(self._settings.unrelated)
        return self._base.sample(
            prompts, None, most=settings.tokens, seed=settings.seed
        )

    def _hinted(self, probes: Sequence[Probe]) -> list[Sampled]:
        """Return what the base answers to probes with the hint, some to each."""
        prompts = [
            self._asked(probe, self._hints.hinted(probe.lesson, probe.messages))
            for probe in probes
        ]
        return self._several(prompts, None)

    def _several(
        self, prompts: Iterable[tuple[int, ...]], name: str | None
    ) -> list[Sampled]:
        """Return as many answers to each prompt as the settings say."""
        settings = self._settings
        return self._base.sample(
            [ids for ids in prompts for _ in range(settings.samples)],
            name,
            most=settings.tokens,
            temperature=settings.temperature,
            seed=settings.seed,
        )

    def _margin(
        self, probes: Sequence[Probe], hinted: Sequence[Sampled], *, is_alone: bool
    ) -> _Checked:
        """Return how much likelier the hinted model's answers have become."""
        change, gain = self._likelier(probes, hinted), self._settings.gain
        way = "it is judged by log probabilities alone: " if is_alone else ""
        text = (
            f"nothing can verify this feedback; {way}the hinted model's answers became "
            f"{change.change:+.3f} nats a token likelier (at least {change.low:+.3f})"
        )
        return _Checked("margin", change, gain, change.low > gain, text)

    def _remembered(self, probes: Sequence[Probe]) -> _Checked:
        """Return how likely what earlier feedback asked for still is."""
        change = self._likelier(probes, self._hinted(probes))
        least = -self._settings.loss
        text = (
            "nothing can verify some earlier feedback; what the hinted model answers "
            f"became {change.change:+.3f} nats a token likelier"
        )
        return _Checked("remembered", change, least, change.change >= least, text)

    def _likelier(self, probes: Sequence[Probe], hinted: Sequence[Sampled]) -> Change:
        """Return how much likelier answers to probes have become, nats a token."""
        settings = self._settings
        asked = [self._asked(probe, probe.messages) for probe in probes]
        plain = [tokens for tokens in asked for _ in range(settings.samples)]
        answers = [answer.token_ids for answer in hinted]
        old, new = (
            likelihoods(self._base, plain, answers, name) for name in self._names
        )
        return mean_change(old, new, settings.confidence)

    def _asked(
        self, probe: Probe, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation, with the tools that the answer had."""
        return self._base.prompt(messages, probe.lesson.receipt.tools)

    def _words(
        self, probes: Sequence[Probe], hinted: Sequence[Sampled]
    ) -> _Checked | None:
        """Return whether the words are said that the feedback adds; None without any.

        They are words that the base does not say without the hint, neither to the
        probes nor to unrelated prompts.
        """
        settings, many = self._settings, self._settings.samples
        prompts = [self._asked(probe, probe.messages) for probe in probes]
        plain, new = (self._several(prompts, who) for who in (None, self._names[1]))
        added = added_words(
            [probe.lesson for probe in probes],
            *(_texts(some, many) for some in (hinted, new)),
            usual=[answer.text for answer in [*plain, *self._plain]],
        )
        if not added.words:
            return None
        change = share_change(0, added.said, added.asked, settings.confidence)
        share = added.hinted / added.asked
        said = (
            f"words that the feedback adds are in {change.after:.0%} of the answers "
            f"({share:.0%} with the hint); {len(added.missing)} of {len(added.words)} "
            "words are missing (if they need not be said, give the feedback a check)"
        )
        return _Checked("words", change, share / 4, not added.missing, said)

    def _shape(
        self,
        name: str,
        measure: Callable[[Sampled], float],
        old: Sequence[Sampled],
        new: Sequence[Sampled],
        share: float,
        least: float,
    ) -> _Checked:
        """Return whether a measure of answers stayed about where it was."""
        change = self._change(measure, old, new)
        limit = max(share * change.before, least)
        said = (
            f"the {name} of answers to unrelated prompts went from {change.before:.2f} "
            f"to {change.after:.2f} (by {limit:.2f} at most)"
        )
        return _Checked(name, change, limit, abs(change.change) <= limit, said)

    def _change(
        self,
        measure: Callable[[Sampled], float],
        old: Sequence[Sampled],
        new: Sequence[Sampled],
    ) -> Change:
        pair = [[measure(answer) for answer in some] for some in (old, new)]
        return mean_change(*pair, self._settings.confidence)

    def _prompts(self, texts: Iterable[str]) -> list[tuple[int, ...]]:
        return [self._base.prompt([{"role": "user", "content": t}]) for t in texts]


def is_right(pattern: str, text: str) -> bool:
    """Say whether an answer to a small question is right.

    Args:
        pattern: What a right answer has, a regular expression.
        text: The answer.
    """
    feedback = Feedback("", "", "critique", "", check=Check(required=pattern))
    verifier = verifier_of(Lesson(feedback, _NOTHING))
    return verifier is not None and verifier.follows(text)


_NOTHING = Receipt("", "", "", 0, (), (), (), (), "")


def _by_verifier(
    probes: Sequence[Probe],
) -> tuple[list[tuple[Probe, Verifier]], list[Probe]]:
    """Return probes with what can verify their feedback, and those without."""
    known = [(probe, verifier_of(probe.lesson)) for probe in probes]
    verified = [(probe, verifier) for probe, verifier in known if verifier is not None]
    return verified, [probe for probe, verifier in known if verifier is None]


def _follow(probe: Probe, verifier: Verifier, said: Sequence[Sampled]) -> int:
    """Return how many answers follow a probe's feedback, and do not just repeat it."""
    texts = [answer.text for answer in said]
    return sum(verifier.follows(t) and not parrots(probe.lesson, t) for t in texts)


def _is_lost(
    one: str, ids: Sequence[str], old: Sequence[int], new: Sequence[int]
) -> bool:
    """Say whether less than half is left of what followed one feedback."""
    rows = [at for at, known in enumerate(ids) if known == one]
    return 2 * sum(new[at] for at in rows) < sum(old[at] for at in rows)


def _texts(said: Sequence[Sampled], many: int) -> list[list[str]]:
    """Return answers as texts, so many together."""
    texts = [answer.text for answer in said]
    return [texts[at : at + many] for at in range(0, len(texts), many)]


def _entropy(answer: Sampled) -> float:
    """Estimate the entropy, nats a token: answers are sampled at temperature 1."""
    return -fmean(answer.logprobs)


def _length(answer: Sampled) -> float:
    return float(len(answer.token_ids))


def _repeated(answer: Sampled) -> float:
    return repetition(answer.token_ids)


def _verdict(checks: Sequence[_Checked]) -> Verdict:
    """Return what all checks say together."""
    bad = [check for check in checks if not check.is_good]
    told = bad or [check for check in checks if check.name in _GAINS]
    figures: Mapping[str, Any] = {check.name: check.figures() for check in checks}
    return Verdict(not bad, tuple(check.said for check in told), figures)
