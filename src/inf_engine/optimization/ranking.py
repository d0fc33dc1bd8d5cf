"""`ComparisonLoss`: an output against a reference; `RankingLoss`: among its peers.

A model that compares texts prefers one place to another, whatever stands there. So the
order in which they are shown is drawn from the texts themselves and a seed: over many
examples the preference cancels, and the same texts are shown in the same order again,
wherever they stand in a batch. `ComparisonLoss` can also ask both ways.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

from inf_engine.containers import ModuleDict
from inf_engine.errors import LossError, UsageError
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.judging import (
    Inquiry,
    JudgingLoss,
    answer_type,
    told,
)
from inf_engine.optimization.questions import inputs_of, target_of
from inf_engine.optimization.rules import text_of
from inf_engine.record import RunRecord

Order = Literal["seeded", "both"]

_SHOWN = "You are shown what a program was given, and"
_WHICH = "Say what makes one answer better than the other; short and specific"
_GENERAL = (
    "The better answer is the one that is more correct, complete and to the point."
)
_VALUES = {"worse": 0.0, "same": 0.5, "better": 1.0}
_ALONE = (
    "an output can be ranked only among others for the same input. Give a batch that "
    "has several runs of each input, or another loss."
)
_PHRASES = {
    "worse": "worse",
    "same": "neither better nor worse",
    "better": "better",
}


class ComparisonLoss(JudgingLoss):
    """Asks a model whether an output is better than a reference.

    The score is `high` for better, `low` for worse, and halfway between for the same.

    Args:
        alias: The model that is asked.
        instructions: What makes an answer better.
        reference: Gives what the output is compared with, called with the record and
            the target; None for the target itself.
        order: ``"seeded"`` asks once, in an order drawn from the texts and the seed;
            ``"both"`` asks twice, both ways, and takes the mean.
        seed: Seeds the order.
        **options: ``engine``, ``low``, ``high``, ``temperature``, ``max_reasks`` and
            ``characters``, as for `JudgingLoss`.

    Raises:
        UsageError: If the order is unknown.
    """

    kind: ClassVar[str] = "comparison"

    def __init__(
        self,
        alias: str,
        instructions: str = "",
        *,
        reference: Callable[[RunRecord, Any], Any] | None = None,
        order: Order = "seeded",
        seed: int = 0,
        **options: Any,
    ) -> None:
        if order not in ("seeded", "both"):
            raise UsageError(f"order must be 'seeded' or 'both', not {order!r}.")
        if reference is not None and not callable(reference):
            raise UsageError(
                "reference must be a function of the record and the target, not "
                f"{type(reference).__name__}."
            )
        choice = Literal["A", "B", "same"]
        better = "A or B, the better answer; same if neither is"
        fields = [("reason", str, _WHICH), ("better", choice, better)]
        super().__init__(
            alias,
            told(
                f"{_SHOWN} two answers to it. Say which is better. Their order means "
                "nothing, and longer is not better.",
                [("Judge by this", instructions.strip() or _GENERAL)],
                fields,
            ),
            answer_type("Comparison", fields),
            **options,
        )
        self._reference = reference
        self._order = order
        self._seed = seed

    @property
    def questions(self) -> int:
        """How many requests it makes for an example; a budget is planned with it."""
        return 2 if self._order == "both" else 1

    def inquiry(self, record: RunRecord, target: Any) -> Inquiry:
        """Return what is asked about one output; two questions to ask both ways.

        Raises:
            LossError: If there is nothing to compare it with.
        """
        reference = target
        if self._reference is not None:
            reference = self._reference(record, target)
        if reference is None:
            raise LossError(
                "there is nothing to compare the output with: the target is None. Give "
                "targets, or ComparisonLoss(reference=...)."
            )
        given, output, firsts = inputs_of(record), record.output, [True, False]
        if self._order == "seeded":
            drawn = drawn_from(self._seed, *_values(record), output, reference)
            firsts = [drawn.random() < 0.5]
        orders = [(output, reference)[:: 1 if first else -1] for first in firsts]
        questions = tuple(
            [
                self.question([*given, ("Answer A", a), ("Answer B", b)])
                for a, b in orders
            ]
        )
        return Inquiry(questions, lambda answers: self._compared(answers, firsts))

    def _compared(self, answers: Sequence[Any], firsts: list[bool]) -> Feedback:
        """Return what answers say of the output, given where it stood first."""
        words, found = [], []
        for said, first in zip(answers, firsts, strict=True):
            mine = "A" if first else "B"
            verdict = "better" if said.better == mine else "worse"
            found.append("same" if said.better == "same" else verdict)
            words.append(
                f"Compared with the reference, the output (here: answer {mine}) is "
                f"{_PHRASES[found[-1]]}: {said.reason.strip()}"
            )
        value = sum(_VALUES[verdict] for verdict in found) / len(found)
        known = {"verdicts": tuple(found), "output_first": tuple(firsts)}
        return Feedback("\n".join(words), self.scaled(value), self.kind, known)


class RankingLoss(JudgingLoss):
    """Asks a model to rank several outputs for the same input.

    The runs of a batch that have the same inputs are ranked together, with one request
    for each such group. The score of the best is `high`, that of the worst `low`, the
    others lie between at equal distances. Equal outputs are shown once and share a
    rank; if all are equal nobody is asked, and all score halfway. A single output
    cannot be ranked: that is the error of its example.

    Args:
        alias: The model that is asked.
        instructions: What makes an output better.
        group: Says what belongs together, called with the record and the target: runs
            for which it gives the same text. None for the same inputs.
        seed: Seeds the order in which outputs are shown.
        **options: ``engine``, ``low``, ``high``, ``temperature``, ``max_reasks`` and
            ``characters``, as for `JudgingLoss`.

    Raises:
        UsageError: If `group` is no function.
    """

    kind: ClassVar[str] = "ranking"

    def __init__(
        self,
        alias: str,
        instructions: str = "",
        *,
        group: Callable[[RunRecord, Any], str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if group is not None and not callable(group):
            raise UsageError(
                "group must be a function of the record and the target, not "
                f"{type(group).__name__}."
            )
        super().__init__(
            alias,
            told(
                f"{_SHOWN} several numbered answers to it. Rank them. Their order "
                "means nothing, and longer is not better.",
                [("Judge by this", instructions.strip() or _GENERAL)],
                _fields(None),
            ),
            _ranking_of(2),
            **options,
        )
        self._group = group
        self._seed = seed

    @property
    def is_relative(self) -> bool:
        """Whether a score says how an output stands among others of its batch."""
        return True

    def inquiry(self, record: RunRecord, target: Any) -> Inquiry:
        """Refuse: one output cannot be ranked.

        Raises:
            LossError: Always.
        """
        raise LossError(_ALONE)

    async def judge_all(
        self, records: Sequence[RunRecord], targets: Sequence[Any], places: list[int]
    ) -> list[Feedback]:
        """Ask about all groups at the same time."""
        items: dict[int, Feedback] = {}
        asked: list[tuple[list[int], list[str]]] = []
        texts = [text_of(record.output) for record in records]
        for members in self._groups(records, targets, items):
            shown = sorted(dict.fromkeys(texts[at] for at in members))
            if len(members) == 1:
                items[members[0]] = self.lost(LossError(_ALONE))
            elif len(shown) == 1:
                items |= dict.fromkeys(members, self._all_equal(len(members)))
            else:
                given = _values(records[members[0]])
                drawn_from(self._seed, *given, *shown).shuffle(shown)
                asked.append((members, shown))
        results = await self._ask(asked, records, targets)
        for (members, shown), result in zip(asked, results, strict=True):
            for at in members:
                items[at] = self._ranked(result, shown.index(texts[at]) + 1)
        return [items[at] for at in range(len(records))]

    def _groups(
        self,
        records: Sequence[RunRecord],
        targets: Sequence[Any],
        items: dict[int, Feedback],
    ) -> list[list[int]]:
        """Return what is ranked together; note the examples for which `group` fails."""
        groups: dict[Any, list[int]] = {}
        for at, (record, target) in enumerate(zip(records, targets, strict=True)):
            key: Any = tuple(map(text_of, _values(record)))
            if self._group is not None:
                try:
                    key = str(self._group(record, target))
                except Exception as exc:  # noqa: BLE001 - the outcome of user code
                    items[at] = self.lost(exc)
                    continue
            groups.setdefault(key, []).append(at)
        return list(groups.values())

    async def _ask(
        self,
        asked: Sequence[tuple[list[int], list[str]]],
        records: Sequence[RunRecord],
        targets: Sequence[Any],
    ) -> list[Any]:
        """Ask for a ranking of each group."""
        questions: list[str] = []
        sizes: list[int] = []
        for members, texts in asked:
            first = members[0]
            labelled = [(f"Answer {n}", text) for n, text in enumerate(texts, 1)]
            shown = [*inputs_of(records[first]), *target_of(targets[first]), *labelled]
            questions.append(self.question(shown))
            sizes.append(len(texts))
        each = dict.fromkeys(sizes)
        ranker = Ranker({str(n): self.call(_ranking_of(n)) for n in each})
        return await self.ask(ranker, questions, sizes)

    def _ranked(self, result: Any, label: int) -> Feedback:
        """Return the feedback on the answer with a number."""
        if isinstance(result.error, Exception):
            return self.lost(result.error)
        said = result.output
        rank, count = said.ranking.index(label) + 1, len(said.ranking)
        score = self.scaled((count - rank) / (count - 1))
        words = (
            f"Ranked {rank} of {count} different outputs for this input (here: answer "
            f"{label}): {said.reason.strip()}"
        )
        known = {"rank": rank, "of": count, "label": label}
        return Feedback(words, score, self.kind, known)

    def _all_equal(self, count: int) -> Feedback:
        words = f"All {count} outputs for this input are equal."
        return Feedback(words, self.scaled(0.5), self.kind, {"rank": 1, "of": 1})


class Ranker(InferenceModule):
    """Asks a model for the order of some texts.

    Args:
        calls: The call for each number of texts.
    """

    def __init__(self, calls: Mapping[str, LLMInference[Any]]) -> None:
        super().__init__()
        self.judge = ModuleDict(calls)

    def forward(self, question: str, count: int) -> Any:
        """Return the order of `count` texts."""
        return self.judge[str(count)](question)


def drawn_from(seed: int, *values: Any) -> random.Random:
    """Return a source of chance that depends on a seed and on values alone.

    Args:
        seed: The seed.
        *values: The values, by their text.
    """
    text = json.dumps([seed, *map(text_of, values)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


def _values(record: RunRecord) -> list[Any]:
    """Return the inputs of a run."""
    return [value for _, value in inputs_of(record)]


def _fields(kind: Any) -> list[tuple[str, Any, str]]:
    """Return the fields of a ranking, as the prompt and the schema have them."""
    order = "The numbers of all answers, each once, the best first"
    why = "Say what makes the better answers better; short and specific"
    return [("reason", str, why), ("ranking", kind, order)]


@lru_cache(maxsize=64)
def _ranking_of(count: int) -> Any:
    """Return the type of a ranking of so many texts; it takes permutations only."""

    def check(said: Any) -> None:
        if sorted(said.ranking) != list(range(1, count + 1)):
            raise ValueError(
                f"ranking must have each number from 1 to {count} exactly once, the "
                "best answer first"
            )

    bounds = {"min_length": count, "max_length": count}
    fields = _fields((list[int], bounds))
    return answer_type("Ranking", fields, __post_init__=check)
