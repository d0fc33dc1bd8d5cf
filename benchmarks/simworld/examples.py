"""Examples of a world: orders, and the answers that the hidden rules give them."""

import re
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.simworld.chance import dice
from benchmarks.simworld.families import Family
from benchmarks.simworld.rules import Rule, RuleBook

REFERENCE = re.compile(r"\bK\d{4}\b")
"""What an order is known by, in any text."""

SIZES = {"train": 60, "val": 60, "test": 200}
"""How many examples each set has."""

_THINGS = ("lamps", "cups", "chairs", "clocks", "frames", "shelves", "baskets")
_PLACES = ("Bergen", "Porto", "Graz", "Lyon", "Ghent", "Turku", "Brno", "Cork")
_CHATTER = (
    "The colour should be blue.",
    "They like the new catalogue.",
    "The last order was fine.",
    "They will call again in spring.",
    "Please say thanks to the team.",
)
_NEEDS = (0.5, 0.35, 0.15)


@dataclass(frozen=True, slots=True)
class Example:
    """One order.

    Args:
        id: Its reference, also found in the text.
        text: The order as the customer wrote it.
        expected: The answer that its label says is right.
        rules: The numbers of the rules that it needs.
    """

    id: str
    text: str
    expected: str
    rules: tuple[int, ...]


def answer(reference: str, marks: list[str]) -> str:
    """Return the answer about an order.

    Args:
        reference: Its reference.
        marks: Its marks, in any order.
    """
    return f"{reference}: {' '.join(sorted(marks)) or 'PLAIN'}"


def drawn(seed: int, family: Family, book: RuleBook) -> dict[str, tuple[Example, ...]]:
    """Return the sets of examples that a seed gives.

    Args:
        seed: The seed of the world.
        family: Says which share of the labels is wrong.
        book: The rules.
    """
    draw = dice(seed, "references")
    references = [f"K{n}" for n in draw.sample(range(1000, 10000), sum(SIZES.values()))]
    sets, first = {}, 0
    for name, size in SIZES.items():
        wrong = family.wrong_labels if name != "test" else 0.0
        sets[name] = tuple(
            _example(seed, reference, book, wrong)
            for reference in references[first : first + size]
        )
        first += size
    return sets


def _example(seed: int, reference: str, book: RuleBook, wrong: float) -> Example:
    """The example with a reference; with that probability its label is wrong."""
    draw = dice(seed, "example", reference)
    (count,) = draw.choices((1, 2, 3), _NEEDS)
    rules = draw.sample(book.rules, count)
    lines = [rule.sighting for rule in rules]
    lines += draw.sample(_CHATTER, draw.randint(1, 2))
    draw.shuffle(lines)
    what = f"{draw.randint(2, 9)} {draw.choice(_THINGS)} for {draw.choice(_PLACES)}"
    text = " ".join([f"Order {reference}: {what}.", *lines])
    marks = [rule.mark for rule in rules]
    if draw.random() < wrong:
        marks[0] = draw.choice(rules[0].wrong)
    numbers = tuple(sorted(rule.id for rule in rules))
    return Example(reference, text, answer(reference, marks), numbers)


def orders_in(text: str) -> dict[str, str]:
    """Return what a text says about each order: from its reference to the next one.

    Args:
        text: Any text.

    Returns:
        Text by reference; what stands in several places is put together.
    """
    starts = [match.start() for match in REFERENCE.finditer(text)]
    orders: dict[str, str] = {}
    for start, end in pairwise([*starts, len(text)]):
        reference = text[start : start + 5]
        orders[reference] = f"{orders.get(reference, '')}\n{text[start:end]}"
    return orders


def hint(rule: Rule, mark: str) -> str:
    """Return what somebody says who sees that a mark is missing.

    Args:
        rule: The rule that was not followed.
        mark: The mark that the label has.
    """
    return f"Look again: {rule.condition}, so the mark {mark} belongs here."
