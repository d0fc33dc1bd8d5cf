"""The task model: how probably it follows each rule, and the answer it then gives.

`Understanding` is what a text makes it do, and `TaskModel.right` the exact probability
of a right answer from it; the answers over HTTP are draws from the very same numbers.

In a world of three stages, what one stage hands to the next is a slip:
``[slip 1] K4821 | OAK-4 ELM-2``. A stage knows its place by the last slip about the
order that it is given.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.simworld.chance import chance
from benchmarks.simworld.examples import REFERENCE, Example, answer, orders_in
from benchmarks.simworld.families import Family
from benchmarks.simworld.forms import form_of, messages_of
from benchmarks.simworld.rules import MARK, Rule, RuleBook

SLIP = re.compile(r"\[slip (\d)\] (K\d{4}) \|([^\n\"\\\]]*)")
"""What one stage hands to the next."""

_MIXED = 0.45
_DEMO = 0.7
_DEMO_MOST = 0.6
_MARKER = re.compile(r"[\[{<`]")


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a text makes the task model do.

    Args:
        odds: By number of a rule, how probably each mark is written for it.
        fading: By what all of these are multiplied, since the text is long.
    """

    odds: tuple[dict[str, float], ...]
    fading: float = 1.0

    def of(self, rule: Rule, mark: str) -> float:
        """Return how probably a mark is written where a rule applies."""
        return self.odds[rule.id].get(mark, 0.0) * self.fading


class TaskModel:
    """The model that works; it has read all orders and knows no rule by itself.

    Args:
        seed: The seed of the world.
        family: What it is good at.
        book: The rules.
        examples: Every order that may be asked about.
    """

    def __init__(
        self, seed: int, family: Family, book: RuleBook, examples: Sequence[Example]
    ) -> None:
        self._seed = seed
        self._family = family
        self._book = book
        self._examples = {example.id: example for example in examples}
        self._odds = lru_cache(4096)(self._read)

    def understand(self, text: str, demos: str = "") -> Understanding:
        """Return what a text makes the model do.

        Args:
            text: All that it is told.
            demos: The part of that which may show worked examples.
        """
        odds = self._odds(text, demos or text)
        return Understanding(odds, self._fading(text))

    def right(self, prompts: Sequence[str], example: Example) -> float:
        """Return how probably the answer about an order is right.

        Args:
            prompts: The prompt of each stage.
            example: The order.
        """
        understood = [self.understand(prompt) for prompt in prompts]
        chances = [
            understood[stage].of(rule, rule.mark)
            for rule in (self._book.rules[number] for number in example.rules)
            for stage in self._stages_of(rule)
        ]
        return math.prod(chances) * (1 - self._family.slip)

    def reply(self, body: dict[str, Any]) -> str:
        """Return the answer to a request, in the form that it asks for."""
        messages = messages_of(body)
        text = "\n".join(messages)
        asked = REFERENCE.findall(messages[-1]) or REFERENCE.findall(text)
        example = self._examples.get(asked[-1]) if asked else None
        form = form_of(body, messages[-1], working=True)
        if example is None:
            return form.plain("I see no order here.")
        return form.plain(self._worked(example, messages, text))

    def _worked(self, example: Example, messages: list[str], text: str) -> str:
        """The slip or the answer about an order."""
        slips = [found for found in SLIP.findall(text) if found[1] == example.id]
        done = int(slips[-1][0]) if slips else 0
        before = [mark.upper() for mark in MARK.findall(slips[-1][2])] if slips else []
        stage = min(done, len(self._family.stages) - 1)
        told, demos = _told(messages, example)
        understood = self.understand(told, demos)
        draw = f"{self._seed} {stage} {text}"
        marks = self._marks(example, stage, before, understood, draw)
        if stage + 1 < len(self._family.stages):
            return f"[slip {stage + 1}] {example.id} | {' '.join(marks)}"
        if chance(draw, "slip") < self._family.slip:
            marks = marks[1:] if len(marks) > 1 else []
        return answer(example.id, marks)

    def _marks(
        self,
        example: Example,
        stage: int,
        before: list[str],
        understood: Understanding,
        draw: str,
    ) -> list[str]:
        """The marks after a stage, those of the stages before it included."""
        if self._family.shared and stage:
            kept = []
            for mark in before:
                rule = self._book.rules[self._book.owner(mark) or 0]
                if chance(draw, rule.id) < understood.of(rule, mark):
                    kept.append(mark)
            return kept
        marks = list(before)
        for rule in (self._book.rules[number] for number in example.rules):
            if stage in self._stages_of(rule):
                marks += self._mark(rule, understood, chance(draw, rule.id))
        return marks

    def _mark(self, rule: Rule, understood: Understanding, drawn: float) -> list[str]:
        """The mark that is written for a rule, if any."""
        for mark in understood.odds[rule.id]:
            drawn -= understood.of(rule, mark)
            if drawn < 0:
                return [mark]
        return []

    def _stages_of(self, rule: Rule) -> Sequence[int]:
        """The stages that must state a rule."""
        return range(len(self._family.stages)) if self._family.shared else [rule.stage]

    def _fading(self, text: str) -> float:
        """By what the length of a text multiplies the odds."""
        family = self._family
        if not family.free_words:
            return 1.0
        lines = [line for line in text.splitlines() if not _MARKER.search(line)]
        extra = sum(len(line.split()) for line in lines) - family.free_words
        return math.exp(-max(0, extra) / family.fading_words)

    def _read(self, text: str, demos: str) -> tuple[dict[str, float], ...]:
        """The odds of each rule's marks in a text."""
        said: list[dict[str, set[bool]]] = [{} for _ in self._book.rules]
        for claim in self._book.claims(text):
            said[claim.rule].setdefault(claim.mark, set()).add(claim.denied)
        shown = self._shown(demos)
        return tuple(
            self._odds_of(rule, said[rule.id], shown) for rule in self._book.rules
        )

    def _odds_of(
        self, rule: Rule, said: dict[str, set[bool]], shown: Counter[tuple[int, str]]
    ) -> dict[str, float]:
        """The odds of a rule's marks, after what was said and shown."""
        follow, guess = self._family.follow, self._family.guess
        claimed = [mark for mark, denied in said.items() if False in denied]
        denied = any(True in denied for denied in said.values())
        if claimed and (denied or len(claimed) > 1):
            return dict.fromkeys(claimed[:2], _MIXED)
        if claimed:
            return {claimed[0]: follow}
        if said:
            return {rule.mark: guess}
        odds = {rule.mark: guess, rule.wrong[0]: 2 * guess, rule.wrong[1]: 2 * guess}
        seen = {m: shown[rule.id, m] for m in odds if shown[rule.id, m]}
        for mark, times in seen.items():
            odds[mark] = min(1 - _DEMO**times, _DEMO_MOST) / len(seen)
        return odds

    def _shown(self, text: str) -> Counter[tuple[int, str]]:
        """How many worked examples in a text show a mark where its rule applies."""
        shown: Counter[tuple[int, str]] = Counter()
        for order in orders_in(text).values():
            marks = {mark.upper() for mark in MARK.findall(order)}
            for rule in self._book.about(order) if marks else ():
                shown.update(
                    (rule.id, m) for m in (rule.mark, *rule.wrong) if m in marks
                )
        return shown


def _told(messages: list[str], example: Example) -> tuple[str, str]:
    """What a request tells besides the order, and the part that may show others.

    The slips about the order name marks beside its conditions; they show nothing.
    """
    last = messages[-1]
    place = last.rfind(example.text)
    if place < 0:
        place = last.rfind(example.id)
    before = last[:place] if place >= 0 else last
    after = last[place + len(example.text) :] if place >= 0 else ""
    rest = SLIP.sub(" ", after).replace(example.id, " ")
    told = "\n".join([*messages[:-1], before, rest]).strip()
    return told, "\n".join([*messages[:-1], SLIP.sub(" ", before)]) or " "
