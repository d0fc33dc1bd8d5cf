"""`Job` and `run`: one answer, as it comes from the head."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from butterfly.api.calls import Call, CallReader
from butterfly.api.text import TextStream
from butterfly.cluster.head import Head
from butterfly.cluster.token import Token
from butterfly.communication.frames import Hop
from butterfly.engine.sampling import Logprob
from butterfly.monitoring.metrics import Metrics
from butterfly.scheduling import Sequence

Chance = tuple[int, Logprob | None]
"""A token, and how probable it was where that is known."""


@dataclass(slots=True)
class Trace:
    """What the stages did for one answer.

    Args:
        frames: How many frames carried it.
        computed: Microseconds that each stage computed them.
        waited: Microseconds that each stage waited for them; at most since the frame
            before, or the request, as a ring without work waits, too.
        bytes: The bytes that came in at each stage.
        first: Seconds until the first token.
        total: Seconds until the last one.
    """

    frames: int = 0
    computed: list[int] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    first: float = 0.0
    total: float = 0.0

    def add(self, hops: tuple[Hop, ...], seconds: float) -> None:
        """Count a frame.

        Args:
            hops: What it took at each stage.
            seconds: The time since the frame before, or the request.
        """
        most = round(seconds * 1e6)
        self.frames += 1
        for counts in (self.computed, self.waited, self.bytes):
            counts += [0] * (len(hops) - len(counts))
        for number, hop in enumerate(hops):
            self.computed[number] += hop.computed
            self.waited[number] += min(hop.waited, most)
            self.bytes[number] += hop.bytes

    def body(self) -> dict[str, Any]:
        """Return it as JSON, times in milliseconds."""
        columns = zip(self.computed, self.waited, self.bytes, strict=True)
        return {
            "frames": self.frames,
            "first_token_ms": round(self.first * 1e3, 3),
            "total_ms": round(self.total * 1e3, 3),
            "hops": [
                {
                    "stage": stage,
                    "computed_ms": computed / 1e3,
                    "waited_ms": waited / 1e3,
                    "bytes": count,
                }
                for stage, (computed, waited, count) in enumerate(columns, 1)
            ],
        }


@dataclass(slots=True)
class Job:
    """One answer to make.

    Args:
        index: The number of the answer in the response.
        sequence: What to generate.
        text: What makes text of it.
        echo: The text of the prompt, if it is part of the answer.
        is_silent: Whether only the prompt is wanted, and no token after it.
        reader: What finds calls of functions in the text, None if there are none.
        tells_calls: Whether calls are why it ended.
        first: The answer to the same prompt whose frames tell how probable the prompt
            was, None if it is this one.

    Attributes:
        has_called: Whether there was a call.
        begun: Set when there is a token, and all is known of the prompt.
        prompt: How probable the tokens of the prompt were, None for the first one.
        trace: What the stages did.
    """

    index: int
    sequence: Sequence
    text: TextStream
    echo: str | None = None
    is_silent: bool = False
    reader: CallReader | None = None
    tells_calls: bool = True
    first: "Job | None" = None
    has_called: bool = False
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    prompt: list[Logprob | None] = field(init=False)
    trace: Trace = field(default_factory=Trace)

    def __post_init__(self) -> None:
        self.prompt = [None] * len(self.sequence.prompt)

    def learn(self, token: Token) -> None:
        """Take how probable tokens of the prompt were.

        Args:
            token: What the head gave.
        """
        for place, told in enumerate(token.drawn.prompt, token.start + 1):
            if told is not None:
                self.prompt[place] = told

    @property
    def chances(self) -> list[Chance]:
        """The tokens of the prompt, and how probable they were."""
        return list(zip(self.sequence.prompt, self.prompt, strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer.

    Args:
        index: The number of the answer.
        text: What it adds to the text.
        tokens: What it adds to the tokens.
        chances: The same, with how probable they were; those of the prompt before
            them where it is echoed.
        finish: Why the answer ended, empty if it goes on.
        stop: The text or the token that ended it, None for the end of text.
        calls: The functions to be called that it adds.
    """

    index: int
    text: str
    tokens: tuple[int, ...] = ()
    chances: tuple[Chance, ...] = ()
    finish: str = ""
    stop: str | int | None = None
    calls: tuple[Call, ...] = ()


async def run(
    head: Head, job: Job, metrics: Metrics, ends: frozenset[int]
) -> AsyncGenerator[Piece, None]:
    """Give an answer in pieces; leaving the loop ends it.

    Args:
        head: Who makes it.
        job: The answer.
        metrics: What counts.
        ends: The tokens that end a text.

    Raises:
        ButterflyError: If it cannot be made.
    """
    began = last = framed = perf_counter()
    is_first, finish = True, ""
    try:
        async with aclosing(head.generate(job.sequence)) as tokens:
            async for token in tokens:
                job.learn(token)
                now = perf_counter()
                if token.hops:
                    job.trace.add(token.hops, now - framed)
                    framed = now
                if token.drawn.token is None:
                    continue
                metrics.token(is_first, now - last)
                job.begun.set()
                if job.first is not None:
                    await job.first.begun.wait()
                piece = _piece(job, token, ends, is_first)
                last, is_first, finish = now, False, piece.finish
                job.trace.total = now - began
                job.trace.first = job.trace.first or now - began
                yield piece
                if finish:
                    return
    finally:
        prompt = len(job.sequence.prompt)
        metrics.answer(finish or "abort", prompt, perf_counter() - began)


def _piece(job: Job, token: Token, ends: frozenset[int], is_first: bool) -> Piece:
    """Return what a token adds to an answer."""
    drawn = token.drawn
    number = -1 if drawn.token is None else drawn.token
    before = (job.echo or "") if is_first else ""
    chances = job.chances if is_first and job.echo is not None else []
    if job.is_silent:
        return Piece(job.index, before, (), tuple(chances), "length")
    text = job.text.feed(number) if token.is_output else ""
    if token.finish:
        text += job.text.end()
    finish, stop = token.finish, job.text.stopped
    chances.append((number, drawn.logprob))
    found: str | int | None = stop
    if stop is not None:
        finish = "stop"
    elif finish == "stop" and number not in ends:
        found = number
    calls: tuple[Call, ...] = ()
    if job.reader is not None:
        text, calls = job.reader.feed(text, is_last=bool(finish))
        job.has_called = job.has_called or bool(calls)
        if finish == "stop" and job.has_called and job.tells_calls:
            finish = "tool_calls"
    told = before + text, (number,), tuple(chances)
    return Piece(job.index, *told, finish, found, calls)


async def merged(
    streams: list[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[Piece, None]:
    """Give the pieces of several answers as they come; leaving the loop ends all.

    Args:
        streams: The answers.
    """
    queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

    async def pour(stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    queue.put_nowait(piece)
            queue.put_nowait(None)
        except Exception as exc:  # noqa: BLE001 - raised below, by who reads
            queue.put_nowait(exc)

    tasks = [asyncio.ensure_future(pour(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            told = await queue.get()
            if isinstance(told, BaseException):
                raise told
            if told is None:
                left -= 1
            else:
                yield told
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
