"""`compact`: leaves out of prompts what the model does without being told.

Weights that have learnt an instruction make its sentence in the prompt dead weight:
every call pays for it. So it is left out, and the examples say whether answers are as
good without it. Each sentence is tried by itself and compared with what the prompts
were at first, so that small losses do not add up unseen.

Where nothing obeys an instruction its sentence can be left out at no loss; that is no
reason to do so. So the answers without it have to be good, too, not only no worse.
The first sentence of a text stays: it says what the text is for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.edits import plain
from inf_engine.optimization.groups import Held
from inf_engine.optimization.intervals import Interval, mean_interval
from inf_engine.optimization.pruning import droppable, without
from inf_engine.optimization.trial import Outcome, Trial

_FREE: Mapping[str, Any] = {"constraints": ()}


@dataclass(frozen=True, slots=True)
class Omission:
    """A sentence that was left out on trial.

    Args:
        sentence: The sentence.
        parameters: The texts that have it, by dotted name.
        verdict: Whether it stays out, why, and the change of the scores with its
            interval.
        tokens: How many tokens the prompts of a run have less without it.
    """

    sentence: str
    parameters: tuple[str, ...]
    verdict: Verdict
    tokens: float

    def __str__(self) -> str:
        what = "dropped" if self.verdict.accepted else "kept"
        return f"{what} {self.sentence!r} ({self.verdict.reason})"


@dataclass(frozen=True, slots=True)
class Compaction:
    """What came of leaving sentences out; prints in words.

    Args:
        tried: Each sentence that was tried, in order.
        before: The mean score with all of them and its interval, from 0 to 1.
        after: The same without those that were dropped.
        tokens: How many tokens of prompt a run of the module saves by it.
    """

    tried: tuple[Omission, ...]
    before: Interval
    after: Interval
    tokens: float

    @property
    def dropped(self) -> tuple[str, ...]:
        """The sentences that are not in the prompts any more."""
        return tuple([one.sentence for one in self.tried if one.verdict.accepted])

    def __str__(self) -> str:
        if not self.tried:
            return "no sentence to leave out"
        lines = [str(one) for one in self.tried]
        lines.append(f"score {self.before}, now {self.after}")
        return "\n".join([*lines, f"{self.tokens:.3g} tokens of prompt saved a run"])


async def compact(
    module: Any,
    examples: Any,
    loss: Any,
    *,
    engine: Any = None,
    sentences: Iterable[str] | None = None,
    gate: Gate | None = None,
    least: float = 0.5,
    target: str = "",
) -> Compaction:
    """Leave sentences out of a module's prompts where answers are as good without.

    The module is changed: its texts lose the sentences, and the feedback that waits on
    these is emptied. It takes a run of the examples, and one for each sentence. What
    only other inputs need seems needless: examples have to be of all kinds.

    Args:
        module: The module. Its texts with ``requires_grad=True`` are looked at.
        examples: The examples, as for `DataLoader`.
        loss: Judges the outputs.
        engine: Runs both; None for the engine that the module is bound to.
        sentences: Which sentences to try; None for all but the first of each text.
        gate: What the scores without a sentence have to keep to; None for
            ``Gate("not worse")``. ``Gate("no significant harm")`` excludes a loss by
            its interval, and needs many examples.
        least: The mean score, from 0 to 1, that there has to be without a sentence.
        target: The field of an example that is its target; empty for all of it.

    Returns:
        What was dropped, what was kept and why, and what it saves.

    Raises:
        UsageError: If there is no engine, or it has a cache or journal and the module
            an `AdapterParameter`; if an example does not fit, or a sentence is in no
            text that may be changed, or is its first.
        TrainingError: If no run reached an endpoint.
        LossError: If the loss failed for all examples.
        BudgetExceededError: If a budget does not allow all of it.

    Example::

        found = await compact(desk, examples, loss, sentences=["Your name is Kuro."])
        print(found)  # dropped 'Your name is Kuro.' (accepted: ...)
    """
    trial = Trial(module, examples, loss, engine=engine, gate=gate, target=target)
    named = module.named_parameters()
    texts = {n: Held(p, _FREE) for n, p in named if p.is_text and p.requires_grad}
    wanted = sentences_of(texts)
    if sentences is not None:
        known, wanted = wanted, [plain(sentence) for sentence in sentences]
        _check_sentences(wanted, known)
    found, values = await left_out(trial, texts, wanted, check_least(least))
    for name, value in values.items():
        texts[name].parameter.apply_update(value)
    return found


async def left_out(
    trial: Trial, texts: Mapping[str, Held], sentences: Iterable[str], least: float
) -> tuple[Compaction, dict[str, str]]:
    """Try texts without sentences, each by itself; nothing is written.

    Args:
        trial: Judges.
        texts: The texts by dotted name, with what they are held to.
        sentences: What to try them without, as `plain` gives it.
        least: The mean score that there has to be without.

    Returns:
        What came of it, and the new values of the texts that changed.
    """
    wanted = list(sentences)
    first = best = await trial.run() if wanted else Outcome({}, 0.0)
    values: dict[str, str] = {}
    tried: list[Omission] = []
    for sentence in wanted:
        fewer = _without(texts, values, sentence)
        if not fewer:
            continue
        after = await trial.run({**values, **fewer})
        verdict = trial.judge(first, after, least)
        saved = best.tokens - after.tokens
        tried.append(Omission(sentence, tuple(fewer), verdict, saved))
        if verdict.accepted:
            values, best = {**values, **fewer}, after
    found = Compaction(
        tuple(tried), _mean(first), _mean(best), first.tokens - best.tokens
    )
    return found, values


def sentences_of(texts: Mapping[str, Held]) -> list[str]:
    """Return the sentences that may be left out: all but the first of each text.

    Args:
        texts: The texts.
    """
    return droppable(held.parameter.value for held in texts.values())


def check_least(least: Any) -> float:
    """Return the least mean score.

    Args:
        least: What was given.

    Raises:
        UsageError: If it is no number from 0 to 1.
    """
    is_number = isinstance(least, int | float) and not isinstance(least, bool)
    if not is_number or not 0.0 <= least <= 1.0:
        raise UsageError(
            f"least={least!r}: give the mean score that there has to be without a "
            "sentence, from 0 to 1."
        )
    return float(least)


def _without(
    texts: Mapping[str, Held], values: Mapping[str, str], sentence: str
) -> dict[str, str]:
    """Return the texts that have a sentence and may do without it."""
    found = {}
    for name, held in texts.items():
        old = values.get(name, held.parameter.value)
        new = without(old, {sentence})
        if new != old and not held.broken(old, new):
            found[name] = new
    return found


def _check_sentences(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse sentences that cannot be left out."""
    has = set(known)
    for place, sentence in enumerate(wanted):
        if sentence not in has:
            raise UsageError(
                f"sentence {place} of those to try is in no text that may be changed, "
                "or is the first one of it, which stays: give sentences as they stand "
                "in the prompts, or none to try all."
            )


def _mean(outcome: Outcome) -> Interval:
    return mean_interval(list(outcome.scores.values()))
