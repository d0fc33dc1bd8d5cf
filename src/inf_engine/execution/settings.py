"""`ExecutionSettings`: how an engine runs things; `Engine.using` changes them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from inf_engine.errors import ConfigurationError, known_names
from inf_engine.resources.retry import RetryPolicy

ErrorPolicy = Literal["raise", "collect"]


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """How a run is executed.

    Args:
        priority: Requests of higher priority leave first.
        timeout: Seconds that one run may take, None for no limit.
        node_timeout: Seconds that one node may take, from when its first request
            leaves (or its function starts), None for no limit.
        errors: ``"raise"`` stops a run (and a `map`) at the first failure;
            ``"collect"`` finishes independent work first, and gives `Result`s.
        retries: Tries after the first one, or a `RetryPolicy`; None for what the
            endpoint says. 0 is none at all; else refusals by a rate limit do not count.
        hedge: The share of requests, from 0 to 1, that may be sent a second time
            because they take longer than 95 in 100 did; None for what the endpoint
            says.

    Raises:
        ConfigurationError: If a value is of the wrong type or out of range.
    """

    priority: int = 0
    timeout: float | None = None
    node_timeout: float | None = None
    errors: ErrorPolicy = "raise"
    retries: int | RetryPolicy | None = None
    hedge: float | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.priority, whole=True):
            raise ConfigurationError(f"priority must be an int, not {self.priority!r}.")
        for name in ("timeout", "node_timeout"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ConfigurationError(
                    f"{name} must be a positive number of seconds, or None for no "
                    f"limit, not {value!r}."
                )
        if self.errors not in ("raise", "collect"):
            raise ConfigurationError(
                f"errors must be 'raise' or 'collect', not {self.errors!r}."
            )
        share = self.hedge
        if share is not None and not (_is_number(share) and 0 <= share <= 1):
            raise ConfigurationError(
                "hedge must be a share of requests from 0 to 1 (0.05 for one in "
                f"twenty), or None for the endpoint's own, not {share!r}."
            )
        tries = self.retries
        if tries is None or isinstance(tries, RetryPolicy):
            return
        if not (_is_number(tries, whole=True) and tries >= 0):
            raise ConfigurationError(
                f"retries must be an int ≥ 0, a RetryPolicy, or None for the "
                f"endpoint's own, not {tries!r}."
            )

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values.

        Raises:
            ConfigurationError: If a name is not a setting, or a value is wrong.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise ConfigurationError(
                    f"unknown setting {name!r}; {known_names(name, names)}"
                )
        return dataclasses.replace(self, **changes)


def _is_number(value: Any, whole: bool = False) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool)
