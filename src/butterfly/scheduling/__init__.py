"""What the head decides: who gets a lane, and what travels in the next frame."""

from butterfly.scheduling.scheduler import Batch, Limits, Scheduler
from butterfly.scheduling.sequence import Constraint, Sequence

__all__ = ["Batch", "Constraint", "Limits", "Scheduler", "Sequence"]
