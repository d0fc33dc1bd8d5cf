"""What goes wrong on purpose at the loopback server: the faults, and `chaos` of them.

=========================  ======================================================
an int                     that status, with the provider's error body
(status, headers, body)    exactly that answer; a body is text, or a value sent
                           as JSON
"reset"                    the connection is reset, nothing is answered
"half-head"                the status line and half of the headers, then closed
"truncate"                 the connection is closed halfway through the answer
"short"                    a stream ends properly, but halfway (like "truncate" if
                           not streamed)
"error-event"              a stream that ends, halfway, with an event that tells of
                           an overload (if not streamed, a 200 with that in it)
"malformed"                a 200 whose body is no JSON
"content-type"             a 200 with an HTML page
"oversized"                a 200 whose body does not end until the client leaves, or
                           100 MiB are sent; JSON or one event, never complete
"trickle"                  the whole right answer, in up to 32 pieces that heed no
                           boundary, ``piece_latency`` (or 10 ms) apart
"hang"                     no answer, until the client leaves or the server stops
=========================  ======================================================
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from inf_engine.errors import UsageError

Fault: TypeAlias = int | str | tuple[int, Mapping[str, str], Any] | None

FAULTS = (
    *("reset", "truncate", "short", "malformed", "hang"),
    *("trickle", "content-type", "oversized", "half-head", "error-event"),
)
"""The faults that have a name."""

ALL_CHAOS: tuple[Fault, ...] = (429, 500, 529, *FAULTS)
"""What `chaos` draws from unless it is told."""


def chaos(
    seed: int, share: float = 0.2, faults: Sequence[Fault] = ALL_CHAOS
) -> Callable[[int, dict[str, Any]], Fault]:
    """Return an ``errors=`` function that lets a share of the requests go wrong.

    Args:
        seed: The same seed gives the same fault to the same index, everywhere.
        share: The probability of a fault, 0 to 1; each request is drawn for itself.
        faults: What a faulty request gets, all equally likely.

    Returns:
        A function of a request's index and body; the body does not matter.

    Raises:
        UsageError: A share outside 0 to 1, no faults, or one that does not exist.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"chaos with share={share}: give a share from 0 to 1.")
    drawn = tuple(faults)
    if not drawn:
        raise UsageError("chaos without faults: name at least one, or leave them out.")
    for fault in drawn:
        if isinstance(fault, str) and fault not in FAULTS:
            raise UsageError(unknown_fault(fault))

    def errors(index: int, body: dict[str, Any]) -> Fault:
        rng = random.Random(f"{seed}/{index}")
        return rng.choice(drawn) if rng.random() < share else None

    return errors


def unknown_fault(fault: str) -> str:
    """Return the sentence about a fault that does not exist."""
    return f"there is no fault {fault!r}; known: {', '.join(FAULTS)}"
