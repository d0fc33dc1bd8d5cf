"""`probes_of`: the prompts on which a gate looks whether feedback is followed."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from claas.types import Lesson, Probe


def probes_of(lessons: Iterable[Lesson], most: int) -> list[Probe]:
    """Return the prompts of lessons: their own, and those of their checks.

    Where these are too many, each lesson's own prompt comes first, then the first one
    that its check holds out, and so on; of the last round every so many-th is taken.

    Args:
        lessons: The lessons.
        most: How many there may be.
    """
    rounds = zip_longest(*map(_prompts, lessons))
    found: list[Probe] = []
    for some in rounds:
        probes = [probe for probe in some if probe is not None]
        room = most - len(found)
        if len(probes) >= room:
            return found + [probes[at * len(probes) // room] for at in range(room)]
        found += probes
    return found


def _prompts(lesson: Lesson) -> Sequence[Probe]:
    """Return all prompts of a lesson."""
    messages = lesson.receipt.messages
    system = tuple(m for m in messages[:1] if m["role"] == "system")
    check = lesson.feedback.check
    more = check.prompts if check else ()
    held = [(*system, {"role": "user", "content": prompt}) for prompt in more]
    return [Probe(lesson, some) for some in (messages, *held)]
