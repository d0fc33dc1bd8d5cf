"""What goes wrong in the middle of a streamed answer, and what its reader sees of it.

Pieces that were given out stand. A next try that writes the same goes on behind them;
one that writes something else is an `AnswerError`, never a mixture of two texts.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.integration.chaos_helpers import (
    SOON,
    Tries,
    due_of,
    expect_same_books,
    left_clean,
    on_sockets,
    shout,
)
from tests.integration.engine_helpers import Ask

from inf_engine import AnswerError, Budget, Engine, ExecutionError
from inf_engine.errors import BudgetExceededError
from inf_engine.testing import LoopbackServer, chaos
from inf_engine.testing.faults import ALL_CHAOS, Fault

PROVIDERS = ["openai-compatible", "anthropic"]
ENDING: list[Fault] = [fault for fault in ALL_CHAOS if fault != "hang"]


def text_of(number: int) -> str:
    """A text of some words, with letters of one to four bytes."""
    return " ".join(f"{word}{number}ß漢🙂" for word in "abcdefg"[: 1 + number % 7])


async def read(engine: Engine, text: str, given: list[str]) -> None:
    """Read a token stream to its end, into a list."""
    async for piece in engine.stream_tokens(Ask(), text):
        assert piece
        given.append(piece)


# -- what the reader sees ---------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_stream_comes_whole_whatever_goes_wrong(provider: str) -> None:
    """Four in ten tries break off somewhere; the pieces add up, nothing comes twice."""
    errors, tries = chaos(3, 0.4), Tries()
    texts = [text_of(number) for number in range(120)]
    async with LoopbackServer(
        shout, latency=0.002, errors=errors, piece_latency=0.001
    ) as server:
        manager = on_sockets(server, 1.0, tries, provider, max_concurrent=50)
        async with left_clean(manager, server) as engine:
            view = engine.using(retries=SOON)
            given: list[list[str]] = [[] for _ in texts]
            reads = [read(view, t, g) for t, g in zip(texts, given, strict=True)]
            await asyncio.gather(*reads)
            books = engine.statistics().total
        assert ["".join(pieces) for pieces in given] == [t.upper() for t in texts]
        assert sum(len(pieces) > 1 for pieces in given) > 50
        assert set(server.statuses) == {200, *ALL_CHAOS}
        expect_same_books(server, errors, tries, books)
        assert books.requests == len(texts)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_two_texts_are_never_mixed(provider: str) -> None:
    """Each try writes another text: the reader has one of them, or an error."""
    errors, tries, written = chaos(4, 0.4, ENDING), Tries(), list[str]()

    def another(body: dict[str, Any]) -> str:
        written.append(f"try {len(written)} of {shout(body)} and so on")
        return written[-1]

    async with LoopbackServer(another, errors=errors, piece_latency=0.001) as server:
        manager = on_sockets(server, 5.0, tries, provider, max_concurrent=20)
        async with left_clean(manager, server) as engine:
            view = engine.using(retries=SOON)
            given: list[list[str]] = [[] for _ in range(100)]
            reads = [read(view, f"q{n} ", pieces) for n, pieces in enumerate(given)]
            ends = await asyncio.gather(*reads, return_exceptions=True)
            books = engine.statistics().total
        expect_same_books(server, errors, tries, books)
    assert books.requests == len(given)
    failed = [end for end in ends if end is not None]
    assert 5 < len(failed) < 70
    for end, text in zip(ends, map("".join, given), strict=True):
        if end is None:
            assert text in written
        else:
            assert isinstance(end, AnswerError)
            assert f"broke off after {len(text)} characters" in str(end)
            assert any(whole.startswith(text) for whole in written)


@pytest.mark.parametrize("fault", [f for f in ALL_CHAOS if f != "trickle"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_breaks_off_is_booked_for_what_it_was(
    provider: str, fault: Fault
) -> None:
    """Refused, if nothing of it came; else unknown: it may have to be paid."""
    tries = Tries()
    seconds = 0.3 if fault == "hang" else 10.0
    async with LoopbackServer(shout, errors=[fault]) as server:
        manager = on_sockets(server, seconds, tries, provider)
        async with left_clean(manager, server) as engine:
            given: list[str] = []
            await read(engine.using(retries=SOON), "one two three four", given)
            books = engine.statistics().total
        assert "".join(given) == "ONE TWO THREE FOUR"
        first, *others, last = [kind for kind, _ in tries.values()]
        assert (first, last) == (due_of(fault, streamed=True), "answered")
        assert not others or fault == "hang"  # so short a deadline may pass again

        def errors(index: int, _: Any) -> Fault:
            return None if index else fault

        expect_same_books(server, errors, tries, books)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_broke_off_keeps_what_the_budget_reserved(
    provider: str,
) -> None:
    """An error event comes when tokens are written already; so no second one fits."""
    async with LoopbackServer(shout, errors=["error-event"] * 9) as server:
        manager = on_sockets(server, 5.0, provider=provider)
        budget = Budget(tokens=1500)
        options: dict[str, Any] = {"budget": budget, "observers": [Wanting()]}
        async with Engine(manager, progress=False, **options) as engine:
            view = engine.using(retries=SOON)
            with pytest.raises(ExecutionError) as caught:
                await view.run(Ask(max_tokens=1000), "one two three four")
        assert isinstance(caught.value.__cause__, BudgetExceededError)
        assert server.count == 1


class Wanting:
    """An observer for whom answers are streamed."""

    wants_tokens = True

    def __call__(self, event: Any) -> None:
        """Take no note."""


async def test_a_trickle_that_takes_too_long_is_given_up_and_goes_on() -> None:
    """The deadline is to the last byte, though bytes come all the time."""
    tries, given = Tries(), list[str]()
    async with LoopbackServer(shout, errors=["trickle"], piece_latency=0.05) as server:
        manager = on_sockets(server, 1.0, tries)
        async with left_clean(manager, server) as engine:
            stream = engine.using(retries=SOON).stream_tokens(Ask(), "one two three")
            given.append(await anext(stream))
            assert (len(tries), server.in_flight) == (1, 1)
            await server.until(lambda: server.in_flight == 0)
            server.piece_latency = 0.0
            given += [piece async for piece in stream]
            books = engine.statistics().total
        assert "".join(given) == "ONE TWO THREE"
        assert [kind for kind, _ in tries.values()] == ["lost", "answered"]
        assert (books.tries, books.requests, books.unknown) == (2, 1, 1)


# -- cancel storms ----------------------------------------------------------------


async def leave(stream: AsyncGenerator[str], count: int, how: str) -> str:
    """Read so many pieces of a stream, and go; return them."""
    pieces: list[str] = []
    async for piece in stream:
        pieces.append(piece)
        if len(pieces) >= count:
            break
    if how == "close":
        await stream.aclose()
    return "".join(pieces)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_storm_of_readers_who_leave_leaves_nothing(
    provider: str, seed: int
) -> None:
    """They close the stream, drop it or are cancelled, at some piece or moment."""
    rng, errors, tries = random.Random(seed), chaos(seed, 0.3), Tries()
    async with LoopbackServer(
        shout,
        latency=lambda index, body: rng.uniform(0.0, 0.02),
        errors=errors,
        piece_latency=0.003,
    ) as server:
        manager = on_sockets(server, 0.3, tries, provider, max_concurrent=20)
        async with left_clean(manager, server) as engine:
            view, loop = engine.using(retries=SOON), asyncio.get_running_loop()
            reads: dict[asyncio.Task[str], str] = {}
            for number in range(150):
                text, how = text_of(number), rng.choice(["close", "drop", "cancel"])
                stream = view.stream_tokens(Ask(), text)
                count = 99 if how == "cancel" else rng.randint(1, 5)
                task = asyncio.create_task(leave(stream, count, how))
                reads[task] = text.upper()
                if how == "cancel":
                    loop.call_later(rng.uniform(0.0, 0.3), task.cancel)
                del stream
            await asyncio.gather(*reads, return_exceptions=True)
            done = {t: r for t, r in reads.items() if not t.cancelled()}
            assert all(text.startswith(t.result()) for t, text in done.items())
            assert 20 < len(done) < 140
            await asyncio.sleep(0)  # those that were dropped begin to close
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=5)
            books = engine.statistics().total
            server._desk._fault = lambda index, body: None
            got = [p async for p in engine.stream_tokens(Ask(), "it goes on")]
            assert "".join(got) == "IT GOES ON"
        assert books.in_flight == 0
        came = {body["max_tokens"] for body in server.bodies}
        assert server.count == len(came) <= len(tries)
        booked = [kind for kind, _ in tries.values()]
        assert books.requests + 1 == booked.count("answered") <= server.answered
        assert books.failures == booked.count("refused")
        assert books.unknown == booked.count("lost")
