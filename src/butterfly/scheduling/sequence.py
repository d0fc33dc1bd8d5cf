"""`Sequence`: one prompt and what was generated after it."""

from dataclasses import dataclass, field
from typing import Protocol

from butterfly.communication.frames import GREEDY, Sampling
from butterfly.communication.penalties import Past, Penalties
from butterfly.scheduling.lookup import Lookup


class Constraint(Protocol):
    """Says which tokens a sequence may have next."""

    def fits(self, draft: list[int]) -> int:
        """Return how many tokens of a draft may be drawn, one after the other.

        Args:
            draft: The tokens.
        """
        ...

    def allowed(self, draft: list[int]) -> bytes:
        """Return the tokens that may be drawn, as `Segment.allowed` has them.

        Args:
            draft: Tokens that fit; those that may be drawn after each are told, too.
        """
        ...

    def accept(self, token: int) -> None:
        """Take the token that was drawn."""
        ...


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, and what was generated after it.

    Args:
        prompt: The tokens to begin with, at least one.
        limit: How many tokens to generate at most.
        sampling: How tokens are chosen.
        stops: Tokens that end it.
        priority: Higher goes first.
        adapter: The number of the adapter, 0 for none.
        prompt_logprobs: Whether the log probabilities of the prompt are wanted.
        constraint: What says which tokens may be drawn, None for all.
        penalties: How what was said changes what is drawn, None for not at all.

    Attributes:
        output: The tokens that were generated.
        lane: Where its keys and values are, None while it waits.
        computed: How many positions have keys and values there once all that was sent
            is computed.
        source: The lane whose first positions it begins with, -1 for its own.
        is_begun: Whether rows of it were sent.
        heard: How many tokens of the output the last stage was told of for penalties,
            -1 if it knows nothing.
        flying: How many frames with rows of it are on their way.
        step: The last frame that rows of it were in.
        finish: Why it ended, empty while it runs: ``stop``, ``length``, ``abort``.
        failure: What went wrong when its next token was to be drawn, or was.
        reused: How many tokens of the prompt had their keys and values already.
        lookup: What guesses the next tokens, None until there was a guess to make.
        number: The order in which sequences came.
    """

    prompt: list[int]
    limit: int
    sampling: Sampling = GREEDY
    stops: frozenset[int] = frozenset()
    priority: int = 0
    adapter: int = 0
    prompt_logprobs: bool = False
    constraint: Constraint | None = None
    penalties: Penalties | None = None
    output: list[int] = field(default_factory=list)
    lane: int | None = None
    computed: int = 0
    source: int = -1
    is_begun: bool = False
    heard: int = -1
    flying: int = 0
    step: int = 0
    finish: str = ""
    failure: Exception | None = None
    reused: int = 0
    lookup: Lookup | None = None
    number: int = 0

    @property
    def tokens(self) -> list[int]:
        """Prompt and output."""
        return self.prompt + self.output

    def part(self, start: int, end: int) -> list[int]:
        """Return some of the tokens; the others are not copied.

        Args:
            start: The position of the first one.
            end: The position after the last one.
        """
        before = len(self.prompt)
        said = self.output[max(0, start - before) : max(0, end - before)]
        return self.prompt[start:end] + said

    @property
    def length(self) -> int:
        """How many tokens there are."""
        return len(self.prompt) + len(self.output)

    @property
    def is_decoding(self) -> bool:
        """Whether all but the newest token have their keys and values, or will have."""
        return self.computed >= self.length - 1 and bool(self.output)

    def draft(self, most: int) -> list[int]:
        """Return a guess of the next tokens, of which none ends the sequence.

        Args:
            most: How many tokens at most.
        """
        if self.lookup is None:
            self.lookup = Lookup()
        self.lookup.read_on(self.part(self.lookup.read, self.length))
        found = self.lookup.draft(min(most, self.limit - len(self.output) - 1))
        ends = (k for k, token in enumerate(found) if token in self.stops)
        found = found[: next(ends, len(found))]
        fits = len(found) if self.constraint is None else self.constraint.fits(found)
        return found[:fits]

    def learn(self, proposed: int, accepted: int) -> None:
        """Take how much of a draft came true: the last stage heard of that.

        Args:
            proposed: How many tokens it had.
            accepted: How many of them were drawn.
        """
        if self.lookup is not None:
            self.lookup.learn(proposed, accepted)
        if self.heard >= 0:
            self.heard += accepted

    def leave(self) -> None:
        """Forget what was sent: the ring is another one."""
        self.lane, self.computed, self.source = None, 0, -1
        self.is_begun, self.flying, self.heard = False, 0, -1

    def past(self) -> bytes:
        """Return what the last stage must know to draw."""
        if self.penalties is None:
            return b""
        return Past.of(self.penalties, self.heard, self.prompt, self.output).encode()

    def take(self, token: int) -> None:
        """Take a token that was drawn, and end if it is the last one.

        Args:
            token: The token.
        """
        if self.constraint is not None:
            self.constraint.accept(token)
        if token in self.stops:
            self.finish = "stop"
            return
        self.output.append(token)
        if len(self.output) >= self.limit:
            self.finish = "length"
