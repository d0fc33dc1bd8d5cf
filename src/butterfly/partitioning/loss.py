"""What lossy codecs change in a model's answers, and how much of that is allowed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from butterfly.partitioning.codec import F32
from butterfly.partitioning.form import build, not_negative


@dataclass(frozen=True, slots=True)
class Loss:
    """What a codec changes, measured on a sample of tokens against f32.

    Args:
        codec: Its name.
        links: On how many links of a chain at once; fewer change less.
        kl: How far the next-token distributions are off, nats a token.
        top1: In which share of the places the likeliest token is the same, 0 to 1.
    """

    codec: str
    links: int
    kl: float
    top1: float

    def __post_init__(self) -> None:
        """Refuse what is no figure."""
        where = f"the loss of {self.codec!r}"
        not_negative(where, links=self.links, kl=self.kl, top1=self.top1)

    def __str__(self) -> str:
        """Return the figures in words."""
        links = "1 link" if self.links == 1 else f"{self.links} links"
        return (
            f"{self.codec} on {links} changes {self.kl:.2g} nats a token, and keeps "
            f"{self.top1:.1%} of the likeliest tokens"
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a lossy codec may change.

    Args:
        kl: The most nats a token.
        top1: The least share of places with the same likeliest token, 0 to 1.
    """

    kl: float = 0.01
    top1: float = 0.97

    def __str__(self) -> str:
        """Return it as the command line has it."""
        return f"{self.kl:g}:{self.top1:g}"

    @property
    def is_open(self) -> bool:
        """Whether anything is allowed, so that nothing need be measured."""
        return self.kl == math.inf and self.top1 == 0

    def objection(self, codec: str, loss: Loss | None) -> str:
        """Say why a codec may not be used; empty if it may.

        Args:
            codec: Its name.
            loss: What it changes, None where nobody measured it.
        """
        if codec == F32.name or self.is_open:
            return ""
        if loss is None:
            return f"nobody measured what {codec} changes on so many links"
        if loss.kl <= self.kl and loss.top1 >= self.top1:
            return ""
        return f"{loss}: the budget is {self.kl:g} nats and {self.top1:.1%}"


def losses_in(data: Mapping[str, Any], where: str = "") -> tuple[Loss, ...]:
    """Return the losses of a JSON object that may have some.

    Args:
        data: The object.
        where: What it is called in front of its field, such as ``nodes[0].``.

    Raises:
        ConfigurationError: Something is missing, unknown or does not fit.
    """
    told = enumerate(data.get("losses", ()))
    return tuple(build(Loss, one, f"{where}losses[{i}]") for i, one in told)


def worst(codec: str, links: int, losses: Iterable[Loss]) -> Loss | None:
    """Return the worst figures of a codec on some links, None if there are none.

    Args:
        codec: Its name.
        links: How many links a chain may have; figures for fewer say nothing.
        losses: What was measured.
    """
    known = [one for one in losses if one.codec == codec and one.links >= links]
    if not known:
        return None
    kl, top1 = max(one.kl for one in known), min(one.top1 for one in known)
    return Loss(codec, max(one.links for one in known), kl, top1)
