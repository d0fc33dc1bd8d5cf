"""`backward`: feedback on outputs becomes notes on the parameters that shaped them."""

from collections.abc import Mapping, Sequence
from typing import Any

from inf_engine.optimization.notes import Note

NodeNotes = Mapping[str, tuple[Note, ...]]


async def backward(
    feedback: Sequence[Any], *, engine: Any = None, critic: Any = None
) -> tuple[NodeNotes, ...]:
    """Leave notes on parameters; see `FeedbackBatch.backward`."""
    raise NotImplementedError
