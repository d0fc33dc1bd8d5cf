"""Every setting of a run and every argument of an engine, seen at the far end."""

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import tenacity
from tests.integration.engine_helpers import (
    Ask,
    Compare,
    Flow,
    echo,
    engines,
    limited,
    virtually,
)

from inf_engine import (
    ConfigurationError,
    Engine,
    ExecutionError,
    ExecutionSettings,
    RetryPolicy,
    op,
)
from inf_engine.errors import EndpointServerError
from inf_engine.execution.events import (
    NodeFinished,
    NodeStarted,
    RunFinished,
    RunStarted,
    TokenDelta,
)
from inf_engine.journal import JournalStore


def test_every_setting_has_a_test_here_or_beside() -> None:
    """Or in test_engine_run, test_engine_failures, test_hedging."""
    names = [field.name for field in dataclasses.fields(ExecutionSettings)]
    wanted = ["priority", "timeout", "node_timeout", "errors", "retries", "hedge"]
    assert names == wanted


@pytest.mark.parametrize(
    ("engine_has", "using", "tries"),
    [(None, {}, 3), (0, {}, 1), (4, {}, 5), (4, {"retries": 1}, 2)],
)
def test_retries_win_over_the_endpoints(
    engine_has: int | None, using: dict[str, int], tries: int
) -> None:
    """The endpoint's (2), the engine's, or those of `using`."""
    client = echo(0.0, lambda r: EndpointServerError("down"))

    async def body(engine: Engine) -> None:
        with pytest.raises(ExecutionError):
            await engine.using(**using).run(Ask(), "x")

    engines(body, client, retries=engine_has)
    assert len(client.requests) == tries


def test_a_retry_policy_says_when_the_next_try_leaves() -> None:
    """Of the engine, or of `using`; functions or strategies of tenacity."""
    patient = RetryPolicy(lambda attempt, rng: 10.0 * attempt, lambda n, rng: n > 2)
    curt = RetryPolicy(tenacity.wait_fixed(1), tenacity.stop_after_attempt(2))
    client = echo(0.0, lambda r: EndpointServerError("down"))

    async def body(engine: Engine) -> None:
        for view in (engine, engine.using(retries=curt)):
            with pytest.raises(ExecutionError):
                await view.run(Ask(), "x")

    engines(body, client, retries=patient)
    assert client.arrivals == [0.0, 10.0, 30.0, 30.0, 31.0]


def test_a_policy_that_fails_ends_the_call_with_what_is_wrong() -> None:
    """And not the loop: the run fails like any other."""
    policy = RetryPolicy(wait=lambda attempt, rng: 1 / 0)
    client = echo(0.0, lambda r: EndpointServerError("down"))

    async def body(engine: Engine) -> None:
        with pytest.raises(ConfigurationError, match="RetryPolicy failed with ZeroDiv"):
            await engine.run(Ask(), "x")

    engines(body, client, retries=policy)
    assert len(client.requests) == 1


@pytest.mark.parametrize("wrong", [5, True, [], b"x.db", "a\0b"])
@pytest.mark.parametrize("name", ["journal", "cache"])
def test_a_file_that_is_no_path_is_refused(name: str, wrong: Any) -> None:
    """Before anything is opened."""
    options: Any = {name: wrong}
    with pytest.raises(ConfigurationError, match=f"{name} must be the path of a file"):
        Engine({"m": echo()}, **options)


def test_one_file_for_journal_and_cache_is_refused(tmp_path: Path) -> None:
    """Whatever it is called."""
    path = tmp_path / "x.db"
    with pytest.raises(ConfigurationError, match="journal and cache name one file"):
        Engine({"m": echo()}, journal=path, cache=f"{tmp_path}/./x.db")
    assert not path.exists()


def test_an_identity_that_is_no_function_is_refused() -> None:
    """When the engine is made, not at the first call."""
    five: Any = 5
    with pytest.raises(ConfigurationError, match="identity must be a function"):
        Engine({"m": echo()}, identity=five)


def test_a_store_that_was_handed_in_stays_open(tmp_path: Path) -> None:
    """It is its owner's to close; a second engine may use it."""
    client = echo(0.0)

    async def main() -> None:
        with JournalStore(tmp_path / "x.db") as store:
            for _ in range(2):
                async with Engine({"m": client}, journal=store) as engine:
                    assert await engine.run(Ask(), "x") == "X"
            assert len(store) == 1

    virtually(main)
    assert len(client.requests) == 1


def test_using_is_a_view_that_leaves_the_engine_as_it_is() -> None:
    """Views add up; they share slots, clients and observers."""
    engine = Engine({"m": echo()}, timeout=9)
    view = engine.using(priority=5).using(retries=0)
    assert view.settings == ExecutionSettings(priority=5, timeout=9, retries=0)
    assert engine.settings == ExecutionSettings(timeout=9)
    assert view.resources is engine.resources
    assert type(view) is Engine


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prio": 1}, "unknown setting 'prio'; known: .*did you mean 'priority'"),
        ({"priority": "high"}, "priority must be an int, not 'high'"),
        ({"timeout": 0}, "timeout must be a positive number of seconds"),
        ({"errors": "ignore"}, "errors must be 'raise' or 'collect', not 'ignore'"),
    ],
)
def test_using_refuses_what_it_does_not_know(
    settings: dict[str, Any], message: str
) -> None:
    """With the names that exist."""
    with pytest.raises(ConfigurationError, match=message):
        Engine({"m": echo()}).using(**settings)


@pytest.mark.parametrize("limit", [1, 5])
def test_max_inflight_is_the_most_inputs_alive(limit: int) -> None:
    """Seen as requests in flight, one for each input."""
    client = echo()
    engines(lambda e: e.map(Ask(), "abcdefghij"), client, max_inflight=limit)
    assert client.max_in_flight == limit
    assert client.arrivals[-1] == 10 / limit - 1


def test_timeout_holds_for_each_input_of_a_map_from_its_own_start() -> None:
    """Three inputs of two seconds, one after the other, within three seconds each."""

    async def body(engine: Engine) -> Any:
        return await engine.map(Ask(), "abc")

    assert engines(body, echo(2.0), timeout=3, max_inflight=1) == ["A", "B", "C"]


def test_settings_hold_for_map_and_stream_too() -> None:
    """A timeout of a view fails the slow input alone."""
    client = echo(lambda r: float(r.prompt))

    async def body(engine: Engine) -> Any:
        view = engine.using(timeout=3, errors="collect")
        streamed = [r.ok async for r in view.stream(Ask(), "25", ordered=True)]
        return streamed, [r.ok for r in await view.map(Ask(), "25")]

    assert engines(body, client) == ([True, False], [True, False])


# -- events -----------------------------------------------------------------------


class Log:
    """An observer that keeps what it was told."""

    def __init__(self, wants_tokens: bool = True) -> None:
        self.events: list[Any] = []
        self.wants_tokens = wants_tokens

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def test_events_tell_the_whole_story_in_order_and_on_time() -> None:
    """Run started, nodes started, pieces, nodes finished, run finished."""
    log = Log()
    engines(lambda e: e.run(Compare(), "a b", "c"), observers=[log])
    kinds = [type(e).__name__ for e in log.events]
    assert kinds[:3] == ["RunStarted", "NodeStarted", "NodeStarted"]
    assert kinds[-2:] == ["NodeFinished", "RunFinished"]
    assert (kinds.count("TokenDelta"), kinds.count("NodeFinished")) == (5, 3)
    assert [(e.node, e.at) for e in log.of(NodeStarted)] == [
        ("extract#1", 0.0),
        ("extract#2", 0.0),
        ("join#1", 1.0),
    ]
    texts: dict[str, str] = {}
    for event in log.of(TokenDelta):
        texts[event.node] = texts.get(event.node, "") + event.text
    assert texts == {"extract#1": "A B", "extract#2": "C", "join#1": "A B+C"}
    done = {e.node: e for e in log.of(NodeFinished)}
    assert (done["join#1"].alias, done["join#1"].seconds) == ("m", 1.0)
    assert done["join#1"].usage.requests == 1
    assert done["join#1"].error is None
    (end,) = log.of(RunFinished)
    assert (end.at, end.seconds, end.usage.requests, end.error) == (2.0, 2.0, 3, None)
    assert {e.run for e in log.events} == {0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        end.at = 5.0


def test_events_of_failures_and_retries() -> None:
    """NodeStarted once a try, NodeFinished and RunFinished with the error."""
    log = Log()
    client = echo(1.0, lambda r: EndpointServerError("down"))

    async def body(engine: Engine) -> None:
        with pytest.raises(ExecutionError) as caught:
            await engine.run(Ask(), "x")
        assert log.of(RunFinished)[0].error is caught.value
        assert log.of(NodeFinished)[0].error is caught.value.cause

    engines(body, client, observers=[log], retries=1)
    assert len(log.of(NodeStarted)) == 2


def test_every_node_that_started_is_finished_also_when_it_is_cancelled() -> None:
    """So that what counts nodes in flight ends at zero."""

    @op
    async def forever(text: str) -> None:
        await asyncio.sleep(1000)

    log = Log()
    client = echo(
        lambda r: float(r.prompt),
        lambda r: ValueError("bad") if r.prompt == "1" else r.prompt,
    )
    module = Flow(lambda m: [m.llm("1"), m.llm("9"), forever("x")])

    async def body(engine: Engine) -> None:
        with pytest.raises(ExecutionError):
            await engine.run(module)

    engines(body, client, observers=[log])
    started = {e.node for e in log.of(NodeStarted)}
    assert started == {"llm#1", "llm#2", "forever#1"}
    assert {e.node for e in log.of(NodeFinished)} == started
    assert {e.seconds for e in log.of(NodeFinished)} == {1.0}


def test_ops_have_events_too() -> None:
    """Without an alias."""
    log = Log()
    shout = op(lambda text: text + "!")
    engines(lambda e: e.run(Flow(lambda m, x: shout(x)), "a"), observers=[log])
    assert [(e.node, e.alias) for e in log.of(NodeFinished)] == [("<lambda>#1", None)]


@pytest.mark.parametrize("wants", [True, False])
def test_endpoints_stream_only_if_somebody_wants_tokens(wants: bool) -> None:
    """An observer with wants_tokens = False gets none, and none are asked for."""
    streamed = []

    class Client(type(echo())):
        async def stream(self, request: Any) -> Any:
            streamed.append(request)
            async for piece in super().stream(request):
                yield piece

    log = Log(wants)
    engines(lambda e: e.run(Ask(), "a b"), Client(lambda r: "a b"), observers=[log])
    assert bool(streamed) is wants
    assert len(log.of(TokenDelta)) == (2 if wants else 0)


def test_an_observer_that_fails_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged; the run and the other observers go on."""
    log = Log()

    def bad(event: Any) -> None:
        raise ZeroDivisionError("the answer")

    with caplog.at_level(logging.ERROR, logger="inf_engine"):
        assert engines(lambda e: e.run(Ask(), "a"), observers=[bad, log]) == "A"
    assert "an observer failed on RunStarted with ZeroDivisionError" in caplog.text
    assert "the answer" not in caplog.text
    assert log.of(RunFinished)


def test_runs_are_numbered_in_order_of_their_start() -> None:
    """The number in an event is that of the input in its engine."""
    log = Log()
    engines(lambda e: e.map(Ask(), "abc"), observers=[log])
    assert [e.run for e in log.of(RunStarted)] == [0, 1, 2]


def test_observers_see_when_a_request_got_its_slot() -> None:
    """NodeStarted is when it left, not when it was ready."""
    log = Log()

    async def main() -> None:
        async with Engine(limited(echo()), observers=[log]) as engine:
            await engine.map(Ask(), "abc")

    virtually(main)
    assert [e.at for e in log.of(NodeStarted)] == [0.0, 1.0, 2.0]
