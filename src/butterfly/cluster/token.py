"""`Token`: one token of a sequence, as a client is told of it."""

from dataclasses import dataclass

from butterfly.communication.frames import Hop
from butterfly.engine.sampling import Drawn


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a sequence, as a client is told of it.

    Args:
        drawn: What the last stage said; its token may be the stop that ended it.
        is_output: Whether the token is part of the output.
        finish: Why the sequence ended, empty if it goes on.
        start: The position of the first row that its frame had of the sequence.
        hops: What its frame took at each stage; only the first of several tokens that
            a frame brought has it.
    """

    drawn: Drawn
    is_output: bool
    finish: str
    start: int = 0
    hops: tuple[Hop, ...] = ()
