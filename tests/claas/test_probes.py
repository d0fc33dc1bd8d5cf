"""Which prompts a gate asks."""

from dataclasses import replace

from tests.claas.test_receipts import ONE, SAID

from claas.probes import probes_of
from claas.types import Check, Lesson


def lesson(number: int, held_out: int) -> Lesson:
    """Return a lesson with a prompt of its own, and held-out ones."""
    told = ({"role": "user", "content": f"{number}"},)
    check = Check("x", prompts=tuple(f"{number}.{n}" for n in range(1, held_out + 1)))
    said = replace(SAID, id=f"f{number}", check=check)
    return Lesson(said, replace(ONE, messages=told))


def asked(lessons: list[Lesson], most: int) -> list[str]:
    """Return what is asked."""
    return [str(probe.messages[-1]["content"]) for probe in probes_of(lessons, most)]


def test_a_gate_asks_no_more_than_it_may() -> None:
    """Each lesson's own prompt first; of what does not fit, some from all over."""
    some = [lesson(1, 3), lesson(2, 0), lesson(3, 1)]
    assert asked(some, 100) == ["1", "2", "3", "1.1", "3.1", "1.2", "1.3"]
    assert asked(some, 4) == ["1", "2", "3", "1.1"]
    assert asked([lesson(n, 9) for n in range(8)], 4) == ["0", "2", "4", "6"]
    assert asked([lesson(n, 9) for n in range(4)], 6)[4:] == ["0.1", "2.1"]
    assert asked([], 4) == []
