"""A run that is looked at while it goes on: `Engine.start`, `LiveRun`."""

import asyncio

import pytest
from tests.integration.engine_helpers import Ask, Compare, echo

from inf_engine import Engine
from inf_engine.errors import EndpointServerError, EngineStateError, UnknownAliasError
from inf_engine.testing import FunctionClient, VirtualTimeLoop


def test_its_record_tells_what_runs_and_what_waits() -> None:
    """Until it has ended; then all is done, and the figures are those of the end."""

    async def main() -> None:
        async with Engine({"m": echo(1.0)}) as engine:
            live = engine.start(Compare(), ("a", "b"))
            await asyncio.sleep(0.5)
            outcomes = {n.name: n.outcome for n in live.record.nodes if n.alias}
            assert outcomes == {
                "extract#1": "running",
                "extract#2": "running",
                "join#1": "waiting",
            }
            assert live.record.seconds == 0.5
            assert (live.is_over, live.usage.requests) == (False, 0)
            await asyncio.sleep(1)
            assert live.usage.requests == 2
            assert live.record.node("join#1").outcome == "running"
            ended, known = live.counts
            assert ended < known
            assert await live.output() == "A+B"
            assert live.is_over
            assert {n.outcome for n in live.record.nodes} == {"done"}
            assert live.counts == (known, known)
            assert (live.record.seconds, live.cost) == (2.0, None)

    VirtualTimeLoop.run(main())


def test_its_output_raises_what_ended_it() -> None:
    """And its record has it."""

    async def main() -> None:
        down = FunctionClient(lambda _: EndpointServerError("down"))
        async with Engine({"m": down}, retries=0) as engine:
            live = engine.start(Ask(), ("a",))
            with pytest.raises(EndpointServerError, match="down"):
                await live.output()
            assert isinstance(live.error, EndpointServerError)
            assert live.record.error is live.error

    VirtualTimeLoop.run(main())


def test_who_waits_no_longer_cancels_it() -> None:
    """Cancelling the wait for its output cancels the run, and its requests."""

    async def main() -> None:
        client = echo(1.0)
        async with Engine({"m": client}) as engine:
            live = engine.start(Ask(), ("a",))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(live.output(), 0.5)
            assert (live.is_over, client.cancelled) == (True, 1)
            assert live.record.node("llm#1").outcome == "cancelled"

    VirtualTimeLoop.run(main())


def test_it_can_be_cancelled_with_a_reason() -> None:
    """Which its output raises."""

    async def main() -> None:
        async with Engine({"m": echo(1.0)}) as engine:
            live = engine.start(Ask(), ("a",))
            live.cancel(EngineStateError("no more"))
            with pytest.raises(EngineStateError, match="no more"):
                await live.output()

    VirtualTimeLoop.run(main())


@pytest.mark.parametrize("tokens", [True, False])
def test_its_pieces_and_its_rest_are_its_output(tokens: bool) -> None:
    """Endpoints are asked to stream only if tokens are wanted."""

    async def main() -> None:
        async with Engine({"m": echo(0.0)}) as engine:
            live = engine.start(Ask(), ("a b c",), tokens=tokens)
            pieces = [piece async for piece in live.pieces()]
            assert pieces == (["A", " B", " C"] if tokens else [])
            rest = live.rest(await live.output())
            assert "".join(pieces) + rest == "A B C"

    VirtualTimeLoop.run(main())


def test_a_module_can_be_checked_before_it_is_run() -> None:
    """An alias that is bound to nothing is told."""

    async def main() -> None:
        async with Engine({"m": echo()}) as engine:
            engine.check(Ask())
            with pytest.raises(UnknownAliasError, match="other"):
                engine.check(Ask("other"))

    VirtualTimeLoop.run(main())
