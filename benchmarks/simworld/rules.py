"""The hidden rules of a world, and how a text that states some of them is read.

A rule says which mark an order gets: ``If the order is a gift, add the mark OAK-4.``
Its condition is one of the fixed ones below; its mark, and the two wrong marks that
are mistaken for it, are drawn by seed, so nothing can be known of them but from
evidence.

A text *claims* a mark for a condition if one sentence has the condition's key word and
the mark, in any wording. A sentence that has more than two conditions or marks claims
nothing (else a list of all words would state all rules), and one with a "not" claims
the contrary. A text *states* a rule if it claims its mark and nothing against it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.simworld.chance import dice

CONDITIONS: tuple[tuple[str, str, str], ...] = (
    ("gift", "the order is a gift", "It is a gift."),
    ("glass", "some part is made of glass", "One part is made of glass."),
    ("invoice", "the customer pays by invoice", "They pay by invoice."),
    ("abroad", "the parcel goes abroad", "The parcel goes abroad."),
    ("express", "express delivery is wanted", "They want express delivery."),
    ("school", "a school has ordered", "A school has ordered it."),
    ("coupon", "there is a coupon", "They sent a coupon along."),
    ("island", "the address is on an island", "The address is on an island."),
    ("battery", "there is a battery inside", "There is a battery inside."),
    ("weekend", "it must come at the weekend", "It must come at the weekend."),
    ("collect", "the customer will collect it", "They will collect it themselves."),
    ("neighbour", "a neighbour may take it", "A neighbour may take it in."),
    ("engrave", "there is a name to engrave", "There is a name to engrave on it."),
    ("member", "the customer is a member", "The customer is a member."),
    ("deposit", "a deposit was paid", "A deposit was paid last week."),
)
"""The key word of each condition, its words in a rule, its words in an order."""

_WORDS = (
    *("OAK", "ELM", "ASH", "FIR", "YEW", "BAY", "FIG", "PINE", "PALM", "TEAK"),
    *("LIME", "PLUM", "PEAR", "CEDAR", "HAZEL", "MAPLE", "BIRCH", "ALDER"),
)
MARK = re.compile(rf"\b(?:{'|'.join(_WORDS)})-\d\b", re.IGNORECASE)
"""Any mark, in a text."""

WORDINGS = (
    "If {condition}, add the mark {mark}.",
    "When {condition}, the answer needs {mark}.",
    "Write {mark} whenever {condition}.",
)
"""How a rule is said."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+|;\s")
_AGAINST = re.compile(
    r"\bnot\b(?! (?:forget|omit|miss|leave out))|n't\b|\bnever\b|\bavoid\b|\bwithout\b"
    r"|\bremove\b|\bno longer\b|\binstead of\b|\bdrop\b",
    re.IGNORECASE,
)
_MOST = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One hidden rule.

    Args:
        id: Its number in the world.
        stage: The number of the stage where it helps; 0 where there is one stage, or
            where it must be stated in all.
        key: The word by which its condition is known.
        condition: The condition, to stand after "If".
        sighting: The sentence of an order to which it applies.
        mark: What it adds to the answer.
        wrong: Marks that are mistaken for it.
    """

    id: int
    stage: int
    key: str
    condition: str
    sighting: str
    mark: str
    wrong: tuple[str, ...]

    def sentence(self, mark: str = "", wording: int = 0) -> str:
        """Return the rule in words.

        Args:
            mark: The mark to name; its own if left out.
            wording: Which of the `WORDINGS`.
        """
        said = WORDINGS[wording % len(WORDINGS)]
        return said.format(condition=self.condition, mark=mark or self.mark)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence that says something about a condition's mark.

    Args:
        rule: The number of the rule whose condition it names.
        mark: The mark it names, in capitals.
        denied: Whether it says not to.
    """

    rule: int
    mark: str
    denied: bool = False


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: lines, cut after full stops and semicolons."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


class RuleBook:
    """The rules of one world, and the reading of texts by them.

    Args:
        rules: All rules, by number.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._keys = [
            (rule, re.compile(rf"\b{rule.key[:-1]}", re.IGNORECASE)) for rule in rules
        ]
        self._owners = {m: r.id for r in rules for m in (r.mark, *r.wrong)}

    @classmethod
    def drawn(cls, seed: int, count: int, stages: int) -> "RuleBook":
        """Return the rules that a seed gives.

        Args:
            seed: The seed of the world.
            count: How many, at most as many as there are conditions.
            stages: Over how many stages they are dealt out.
        """
        draw = dice(seed, "rules")
        conditions = draw.sample(CONDITIONS, count)
        marks = [f"{word}-{digit}" for word in _WORDS for digit in range(1, 10)]
        drawn = draw.sample(marks, 3 * count)
        return cls(
            [
                Rule(n, n % stages, *told, drawn[3 * n], tuple(drawn[3 * n + 1 :][:2]))
                for n, told in enumerate(conditions)
            ]
        )

    def about(self, text: str) -> list[Rule]:
        """Return the rules whose condition a text names."""
        return [rule for rule, key in self._keys if key.search(text)]

    def owner(self, mark: str) -> int | None:
        """Return the number of the rule that a mark belongs to, right or wrong."""
        return self._owners.get(mark)

    def claims(self, text: str) -> Iterator[Claim]:
        """Yield what a text claims, sentence by sentence.

        Args:
            text: A prompt, a request, a piece of feedback: any text.
        """
        for sentence in sentences(text):
            yield from self.claims_of(sentence)

    def claims_of(self, sentence: str) -> Iterator[Claim]:
        """Yield what one sentence claims."""
        marks = list(dict.fromkeys(m.upper() for m in MARK.findall(sentence)))
        if not 0 < len(marks) <= _MOST:
            return
        named = self.about(sentence)
        if not 0 < len(named) <= _MOST:
            return
        denied = _AGAINST.search(sentence) is not None
        for rule in named:
            own = [mark for mark in marks if self._owners.get(mark) == rule.id]
            strange = marks if len(named) == 1 else []
            for mark in own or strange:
                yield Claim(rule.id, mark, denied)
