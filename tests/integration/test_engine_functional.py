"""`functional` at the far end: what is paid, what is cancelled, and when."""

import asyncio
import time
from typing import Any

import pytest
from tests.integration.engine_helpers import Flow, echo, run, virtually

from inf_engine import (
    DeadlineError,
    Engine,
    ExecutionError,
    InferenceModule,
    LLMInference,
)
from inf_engine import functional as F
from inf_engine.testing import FunctionClient


def test_first_takes_the_fastest_and_cancels_the_rest() -> None:
    """The winner's time is the run's; the losers' requests are closed."""
    client = echo(lambda r: float(r.prompt))
    module = Flow(lambda m: F.first(m.llm("3"), m.llm("1"), m.llm("2")))
    started = time.monotonic()
    assert run(module, client=client) == "1"
    assert time.monotonic() - started < 5
    assert client.cancelled == 2


def test_first_passes_over_failures_and_bad_answers() -> None:
    """A failed candidate, and one that is not good, are not chosen."""

    def answer(request: Any) -> Any:
        return ValueError("broken") if request.prompt == "1" else request.prompt

    client = echo(lambda r: float(r.prompt), answer)
    module = Flow(
        lambda m: F.first(m.llm("1"), m.llm("2"), m.llm("3"), good=lambda v: v != "2")
    )
    assert run(module, client=client) == "3"
    assert client.cancelled == 0


def test_a_loser_that_is_returned_too_is_not_cancelled() -> None:
    """What the output needs is not lost to a choice made elsewhere."""

    def forward(m: Any) -> Any:
        slow = m.llm("2")
        return F.first(slow, m.llm("1")), slow

    client = echo(lambda r: float(r.prompt))
    assert run(Flow(forward), client=client) == ("1", "2")


def test_using_a_cancelled_loser_is_an_error_that_says_so() -> None:
    """A loser used after the choice fails with the reason and the cure."""

    def forward(m: Any) -> Any:
        slow = m.llm("2")
        if F.first(slow, m.llm("1")) == "1":
            return m.llm(f"{slow}")
        return None

    with pytest.raises(
        ExecutionError, match="had a good candidate already. Use what first"
    ):
        run(Flow(forward), client=echo(lambda r: float(r.prompt)))


def test_cond_pays_only_for_the_branch_it_takes() -> None:
    """The other branch is never called."""
    client = echo()
    module = Flow(
        lambda m, x: F.cond(
            m.llm(x) == "YES", lambda y: m.llm(f"then {y}"), lambda y: m.llm("else"), x
        )
    )
    assert run(module, "yes", client=client) == "THEN YES"
    assert client.prompts == ["yes", "then yes"]


def test_map_over_a_length_not_known_yet_runs_its_items_at_once() -> None:
    """Each word of an answer becomes a call; all leave together."""
    client = echo()
    module = Flow(lambda m, x: F.map(lambda w: m.llm(f"{w}!"), m.llm(x).split()))
    assert run(module, "a b c", client=client) == ["A!", "B!", "C!"]
    assert client.arrivals == [0.0, 1.0, 1.0, 1.0]


def test_map_over_an_async_function_awaits_each() -> None:
    """Items of an async function run at the same time."""
    client = echo()

    def forward(m: Any, xs: list[str]) -> Any:
        async def twice(x: str) -> str:
            return await m.llm(await m.llm(x))

        return F.map(twice, xs)

    assert run(Flow(forward), ["a", "b"], client=client) == ["A", "B"]
    assert client.arrivals == [0.0, 0.0, 1.0, 1.0]


def test_vote_and_gather_wait_for_all_answers() -> None:
    """The most frequent answer wins; gather gives a list that may be measured."""
    client = echo(1.0, lambda r: "x" if r.prompt in "bd" else r.prompt)
    module = Flow(
        lambda m: (
            F.vote([m.llm(p) for p in "abcd"]),
            len(F.gather(m.llm("p"), m.llm("q"))),
        )
    )
    assert run(module, client=client) == ("x", 2)
    assert client.arrivals == [0.0] * 6


class AsyncRace(InferenceModule):
    """An async forward that waits for the faster of two, and for a third."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference("m")

    async def forward(self) -> Any:
        third = self.llm.acall("2")
        fast = await F.first(self.llm("5"), self.llm("1"))
        try:
            slow = await asyncio.wait_for(self.llm.acall("50"), 3)
        except TimeoutError:
            slow = "late"
        return fast, slow, await third


def test_an_async_forward_chooses_waits_and_gives_up() -> None:
    """first, wait_for, and a coroutine that begins when it is awaited."""
    client = echo(lambda r: float(r.prompt))

    async def main() -> Any:
        async with Engine({"m": client}) as engine:
            return await engine.record(AsyncRace())

    record = virtually(main)
    assert record.output == ("1", "late", "2")
    assert client.arrivals == [0.0, 0.0, 1.0, 4.0]
    assert record.seconds == 6.0
    assert client.cancelled == 2


def test_an_async_forward_that_hangs_ends_with_the_runs_timeout() -> None:
    """Its own awaits are cancelled, and its cleanup runs."""
    cleaned = []

    class Hangs(InferenceModule):
        async def forward(self) -> None:
            try:
                await asyncio.sleep(1e6)
            finally:
                cleaned.append(asyncio.get_running_loop().time())

    with pytest.raises(DeadlineError, match="still open: forward itself"):
        run(Hangs(), client=echo(), timeout=2)
    assert cleaned == [2.0]


def test_one_llm_alone_is_a_module() -> None:
    """A leaf needs no module around it."""
    client = FunctionClient(lambda r: r.prompt.upper())
    assert run(LLMInference("m"), "a", client=client) == "A"
