"""What a judge is shown: headings, and data between fences that it does not hold.

So data cannot be taken for a heading, nor for an instruction.
"""

from collections.abc import Iterable
from typing import Any

from inf_engine.optimization.rules import text_of
from inf_engine.record import RunRecord

Section = tuple[str, Any]


def question(sections: Iterable[Section], characters: int) -> str:
    """Return what a judge is asked.

    Args:
        sections: Headings, each with the value that stands under it.
        characters: The most characters of one value that are shown.
    """
    return "\n\n".join(
        f"# {heading}\n\n{fenced(cut(text_of(value), characters))}"
        for heading, value in sections
    )


def inputs_of(record: RunRecord) -> list[Section]:
    """Return the inputs of a run, each under a heading."""
    if len(record.args) == 1:
        found: list[Section] = [("Input", record.args[0])]
    else:
        found = [(f"Input {n}", value) for n, value in enumerate(record.args, 1)]
    return found + [(f"Input {name!r}", v) for name, v in record.kwargs.items()]


def target_of(target: Any) -> list[Section]:
    """Return the target under its heading; nothing if it is not known."""
    return [] if target is None else [("What the output should be", target)]


def cut(text: str, most: int) -> str:
    """Return a text that is not longer than `most` characters, and says so."""
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"


def fenced(text: str) -> str:
    """Return a text between fences that it does not hold."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
