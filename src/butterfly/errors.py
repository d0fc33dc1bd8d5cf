"""The errors of butterfly.

    ButterflyError
    ├── ConfigurationError    the caller: an option, a file, a model that is not there
    ├── PlanError             the caller: the planner was asked for what it cannot do
    │   └── InfeasibleError   the model does not fit: which constraint, by how much
    ├── RequestError          the client: a request that cannot be answered
    │   ├── LengthError       the client: a prompt has no room
    │   └── CapacityError     nobody: too many requests at the moment
    ├── FrameError            us, or a stranger: bytes that are no frame of this epoch
    ├── LinkError             the network: a hop is stuck or closed
    └── ClusterError          the cluster: no stage is left for some layers

Every message says what happened, where, and what to do.
"""


class ButterflyError(Exception):
    """Any error of butterfly."""


class ConfigurationError(ButterflyError):
    """Something that was given does not fit: an option, a file, a model."""


class PlanError(ButterflyError):
    """The planner was asked for what it cannot do."""


class InfeasibleError(PlanError):
    """No placement exists: one constraint cannot be met.

    Args:
        message: What does not fit, and what would help.
        constraint: ``memory`` (all nodes together), ``layer`` (one piece on its own),
            ``packing`` (whole layers on these nodes), ``node`` (one node of a
            given placement).
        needed: What the constraint asks for, bytes.
        available: What there is, bytes.
    """

    def __init__(
        self, message: str, constraint: str, needed: float, available: float
    ) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.needed = needed
        self.available = available

    def __reduce__(self) -> tuple[type, tuple[str, str, float, float]]:
        """Pickle with all four arguments."""
        return type(self), (
            str(self),
            self.constraint,
            self.needed,
            self.available,
        )

    @property
    def missing(self) -> float:
        """By how much the constraint is missed, bytes."""
        return self.needed - self.available


class RequestError(ButterflyError):
    """A request cannot be answered as it is."""


class LengthError(RequestError):
    """A prompt is longer than there is room for.

    Attributes:
        code: What clients of OpenAI look for.
    """

    code = "context_length_exceeded"


class CapacityError(RequestError):
    """There are too many requests at the moment."""


class FrameError(ButterflyError):
    """Bytes are no frame, or one of another epoch."""


class LinkError(ButterflyError):
    """A hop is stuck, or its other end is gone."""


class ClusterError(ButterflyError):
    """The cluster cannot serve: no stage is left for some layers."""
