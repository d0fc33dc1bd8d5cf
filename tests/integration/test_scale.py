"""Maps over actors, on a virtual clock and without Ray."""

import asyncio
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.integration.engine_helpers import virtually
from tests.integration.limit_helpers import (
    endpoint,
    engine_on,
    prompts,
    reached,
)
from tests.integration.scale_helpers import LocalBackend, LocalCrew, Twice

from inf_engine import (
    ActorLostError,
    Budget,
    BudgetExceededError,
    ConfigurationError,
    Engine,
    EngineStateError,
    ExecutionError,
    InferenceModule,
    JournalError,
    LLMInference,
    ModuleError,
    op,
)
from inf_engine.journal import JournalStore
from inf_engine.scale import RayBackend
from inf_engine.scale.ray_backend import RayHand
from inf_engine.testing import FunctionClient, LoopbackServer

ONE = LLMInference(alias="fast")
Body = Callable[[Engine, LocalBackend], Any]


def echo(body: dict[str, Any]) -> str:
    """Answer with the system prompt and the last message."""
    return f"{body['messages'][0]['content']}:{body['messages'][-1]['content']}"


def over_actors(
    server: LoopbackServer | None, body: Body, crew: LocalCrew, **options: Any
) -> Any:
    """Run `body(engine, backend)` on a virtual clock."""
    options.setdefault("resources", {"fast": endpoint(max_concurrent=8)})

    async def main() -> Any:
        resources = options.pop("resources")
        async with Engine(resources, progress=False, **options) as engine:
            return await body(engine, LocalBackend(crew))

    return virtually(main)


def spread(
    server: LoopbackServer,
    inputs: Any,
    *,
    module: Any = ONE,
    size: int = 2,
    dies_at: float | None = None,
    journal: Path | None = None,
    cache: Path | None = None,
    **limits: Any,
) -> tuple[list[Any], float, LocalCrew]:
    """Map over actors; return the outputs, the seconds it took and the crew."""
    crew = LocalCrew(size, server)

    async def body(engine: Engine, backend: LocalBackend) -> tuple[list[Any], float]:
        loop = asyncio.get_running_loop()
        if dies_at is not None:
            loop.call_at(dies_at, lambda: crew.hands[0].kill())
        outputs = await engine.map(module, inputs, backend=backend)
        return outputs, loop.time()

    resources = {"fast": endpoint(**(limits or {"max_concurrent": 8}))}
    given: dict[str, Any] = {"journal": journal, "cache": cache}
    outputs, seconds = over_actors(server, body, crew, resources=resources, **given)
    return outputs, seconds, crew


def run_here(server: LoopbackServer, journal: Path, inputs: Any, module: Any) -> Any:
    """Map in this process."""
    manager = reached({"fast": endpoint(max_concurrent=8)}, one=server)
    return engine_on(manager, lambda e: e.map(module, inputs), journal=journal)


def test_outputs_come_in_input_order_and_both_actors_work() -> None:
    """A map over actors gives what a local one gives."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = [f"x{i}" for i in range(50)]
    outputs, _, crew = spread(server, inputs, module=Twice())
    assert outputs == [f"second:<first:{each}>" for each in inputs]
    assert server.count == 100
    assert all(len(hand.taken) > 10 for hand in crew.hands)


# -- limits ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("slots", [1, 3, 8, 40])
def test_no_more_are_in_flight_than_the_endpoint_takes(slots: int, size: int) -> None:
    """The sum over actors keeps to max_concurrent, and reaches it."""
    server = LoopbackServer(latency=0.1, max_concurrent=slots)
    rounds = 40
    inputs = [str(i) for i in range(rounds * slots)]
    _, seconds, _ = spread(server, inputs, size=size, max_concurrent=slots)
    assert server.max_in_flight == slots
    assert set(server.statuses) == {200}
    if slots >= size:
        assert seconds < rounds * 0.1 / 0.92
    else:  # they take turns
        assert seconds < rounds * 0.1 / 0.75


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("rate", [60, 1_200, 6_000])
def test_requests_per_minute_hold_over_all_actors(rate: int, size: int) -> None:
    """The server, whose limit is the same, refuses none; it is reached to 97 %."""
    server = LoopbackServer(latency=0.3, requests_per_minute=rate, headers=False)
    count = max(60, rate // 12)
    inputs = [str(i) for i in range(count)]
    limits: Any = {"requests_per_minute": rate, "max_concurrent": 100}
    _, seconds, _ = spread(server, inputs, size=size, **limits)
    assert set(server.statuses) == {200}
    assert seconds < ((count - 1) * 60 / rate + 0.3) / 0.97


@pytest.mark.parametrize("size", [1, 2, 5])
def test_tokens_per_minute_hold_over_all_actors(size: int) -> None:
    """Estimates are booked, and corrected by what was used, in one place."""
    text = "word " * 40
    server = LoopbackServer(text, latency=0.2, tokens_per_minute=60_000, headers=False)
    inputs = [f"{i} {text * (1 + i % 5)}" for i in range(300)]
    limits: Any = {"tokens_per_minute": 60_000, "max_concurrent": 50}
    _, seconds, _ = spread(server, inputs, size=size, **limits)
    assert set(server.statuses) == {200}
    used = sum(len(prompt.split()) + 40 for prompt in prompts(server))
    assert used / seconds >= 0.96 * 1_000


def test_an_actor_that_has_nothing_to_do_leaves_its_slots_to_others() -> None:
    """All slots are in use although one actor has all that is left."""
    waits = [0.05] * 20 + [3.0] * 40
    server = LoopbackServer(latency=lambda i, body: waits[i])
    spread(server, [str(i) for i in range(60)], max_concurrent=10)
    assert server.max_in_flight == 10


def test_the_slots_of_a_dead_actor_are_free_again() -> None:
    """They are used by others, and never more than there are."""
    server = LoopbackServer(latency=0.1, max_concurrent=8)
    inputs = [str(i) for i in range(400)]
    _, seconds, crew = spread(server, inputs, dies_at=1.0)
    assert crew.forgotten == ["actor-0"]
    assert server.max_in_flight == 8
    assert 429 not in server.statuses
    assert seconds < 400 / 8 * 0.1 + 0.5


# -- the journal -------------------------------------------------------------------


def test_what_actors_paid_is_not_paid_here(tmp_path: Path) -> None:
    """A local map with the same journal sends nothing."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = [f"x{i % 20}" for i in range(30)]
    journal = tmp_path / "run.db"
    outputs, _, _ = spread(server, inputs, module=Twice(), journal=journal)
    assert server.count == 40
    assert run_here(server, journal, inputs, Twice()) == outputs
    assert server.count == 40


def test_what_was_paid_here_is_not_paid_by_actors(tmp_path: Path) -> None:
    """Actors take from the journal what a local map has left there."""
    server = LoopbackServer(echo, latency=0.1)
    journal = tmp_path / "run.db"
    run_here(server, journal, [f"x{i}" for i in range(20)], Twice())
    inputs = [f"x{i}" for i in range(30)]
    outputs, _, _ = spread(server, inputs, module=Twice(), journal=journal)
    assert outputs == [f"second:<first:{each}>" for each in inputs]
    assert server.count == 60


def test_rows_have_the_places_that_a_local_run_gives_them(tmp_path: Path) -> None:
    """Both journals hold the same keys, places and answers."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = [f"x{i}" for i in range(10)]
    run_here(server, tmp_path / "here.db", inputs, Twice())
    spread(server, inputs, module=Twice(), journal=tmp_path / "there.db")
    found = []
    for name in ("here.db", "there.db"):
        with JournalStore(tmp_path / name, read_only=True) as store:
            rows = [(r.key, r.path, r.place, r.number) for r in store.rows()]
        found.append(sorted(rows))
    assert found[0] == found[1]


@pytest.mark.parametrize("dies_at", [0.05, 0.33, 0.5, 0.71])
def test_what_a_dead_actor_journaled_is_not_paid_twice(
    dies_at: float, tmp_path: Path
) -> None:
    """Each call was asked once, but for those that were in flight at the death."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = [f"x{i}" for i in range(60)]
    journal = tmp_path / "run.db"
    outputs, _, crew = spread(
        server, inputs, module=Twice(), journal=journal, dies_at=dies_at
    )
    assert outputs == [f"second:<first:{each}>" for each in inputs]
    assert len(crew.hands) == 3
    asked = Counter(echo(body) for body in server.bodies)
    twice = [text for text, count in asked.items() if count > 1]
    assert len(asked) == 120
    assert set(asked.values()) <= {1, 2}
    assert len(twice) <= 4  # the slots that it had
    assert server.count - len(twice) == 120


def test_equal_inputs_share_one_answer_over_all_actors(tmp_path: Path) -> None:
    """As in a local map: those that are alive follow, later ones are in the journal."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = ["same"] * 100 + [str(i) for i in range(20)] + ["same"] * 100
    spread(server, inputs, journal=tmp_path / "run.db")
    assert server.count == 21


def test_the_cache_answers_actors_too(tmp_path: Path) -> None:
    """What was there when the map began, and what the actor added."""
    server = LoopbackServer(echo, latency=0.1)
    cache = tmp_path / "cache.db"
    inputs = [f"x{i}" for i in range(20)]
    first, _, _ = spread(server, inputs, cache=cache)
    second, _, _ = spread(server, inputs, cache=cache, journal=tmp_path / "run.db")
    assert first == second
    assert server.count == 20
    assert run_here(server, tmp_path / "run.db", inputs, ONE) == first
    assert server.count == 20


@op(journal=True)
def shouted(text: str) -> str:
    """Note that it was called."""
    CALLS.append(text)
    return text.upper()


CALLS: list[str] = []


class Shout(Twice):
    """An op whose value is journaled, and a call."""

    def forward(self, text: str) -> str:
        return self.first(shouted(text))


def test_values_of_ops_are_kept_by_the_coordinator(tmp_path: Path) -> None:
    """They are not made again in a local run."""
    CALLS.clear()
    server = LoopbackServer(echo)
    journal = tmp_path / "run.db"
    outputs, _, _ = spread(server, ["a", "b"], module=Shout(), journal=journal)
    assert outputs == ["first:A", "first:B"]
    assert run_here(server, journal, ["a", "b"], Shout()) == outputs
    assert sorted(CALLS) == ["a", "b"]


def test_a_journal_that_must_survive_a_loss_of_power_may_be_lent(
    tmp_path: Path,
) -> None:
    """A store that was handed in is its owner's again, with what was added."""
    server = LoopbackServer(echo, latency=0.1)
    store = JournalStore(tmp_path / "run.db", durability="power")
    journal: Any = store
    spread(server, ["a", "b"], journal=journal)
    assert len(store) == 2
    store.close()


def test_the_engine_has_its_journal_again_after_the_map(tmp_path: Path) -> None:
    """Also after one that was left in the middle."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> None:
        inputs = (f"x{i}" for i in range(1000))
        results = engine.stream(ONE, inputs, backend=backend)
        async for result in results:
            if result.index > 20:
                break
        await results.aclose()
        journal: Any = engine._scheduler.memory
        assert len(journal.journal) >= 20
        assert server.in_flight == 0
        total = engine.statistics().total
        assert total.tries == server.count
        assert total.requests + total.unknown == server.count

    over_actors(server, body, crew, journal=tmp_path / "run.db")


def test_an_engine_runs_here_or_over_actors() -> None:
    """Not both at the same time: limits and journal are in one place."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> None:
        there = asyncio.ensure_future(engine.map(ONE, ["b"], backend=backend))
        await asyncio.sleep(0.05)
        with pytest.raises(EngineStateError, match="has the limits and the journal"):
            await engine.run(ONE, "a")
        with pytest.raises(EngineStateError, match="has the limits and the journal"):
            await engine.map(ONE, ["a"], backend=backend)
        await there
        running = asyncio.ensure_future(engine.run(ONE, "a"))
        await asyncio.sleep(0)
        with pytest.raises(EngineStateError, match="runs something else"):
            await engine.map(ONE, ["b"], backend=backend)
        running.cancel()
        await asyncio.wait([running])

    over_actors(server, body, crew)


def test_what_comes_after_a_loop_that_was_left_waits_for_it() -> None:
    """As it need not after a local stream: asyncio closes the generator a bit later."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> None:
        endless = (f"x{i}" for i in itertools.count())
        async for _ in engine.stream(ONE, endless, ordered=True, backend=backend):
            break
        assert len(await engine.map(ONE, ["a"], backend=backend)) == 1
        async for _ in engine.stream(ONE, ["a", "b"], backend=backend):
            break
        assert await engine.run(Fails(), 0) == 0
        async for _ in engine.stream(ONE, ["a", "b"], backend=backend):
            break

    over_actors(server, body, crew)
    assert server.in_flight == 0
    assert all(hand.dead.done() for hand in crew.hands)


@pytest.mark.parametrize("backend", ["ray", RayBackend, 0])
def test_what_is_no_backend_is_named(backend: Any) -> None:
    """With what would be one."""

    async def body(engine: Engine, _: LocalBackend) -> None:
        with pytest.raises(ConfigurationError, match=r"such as inf_engine.*RayBackend"):
            await engine.map(ONE, ["a"], backend=backend)

    over_actors(None, body, LocalCrew(1, None))


def test_a_cluster_that_is_gone_is_a_lost_actor() -> None:
    """Ray raises plain exceptions then, which are nobody's to read."""

    def gone(*args: Any) -> Any:
        raise Exception("Failed to submit task")  # noqa: TRY002 - as Ray does

    method = SimpleNamespace(remote=gone)
    ray = SimpleNamespace(kill=gone, exceptions=SimpleNamespace(RayError=OSError))
    hand = RayHand(ray, "a", SimpleNamespace(put=method, take=method), 1.0)
    for is_up, why in ((True, "is gone, or does not answer"), (False, "was shut down")):
        ray.is_initialized = partial(bool, is_up)
        hand.put([])
        hand.kill()
        with pytest.raises(ActorLostError, match=why):
            virtually(hand.take)


# -- streams -----------------------------------------------------------------------


def test_inputs_are_pulled_as_room_is_free() -> None:
    """An endless iterable is not read ahead of the slots."""
    server = LoopbackServer(echo, latency=0.1)
    crew, pulled = LocalCrew(2, server), []

    def endless() -> Iterator[str]:
        for i in range(10**9):
            pulled.append(i)
            yield f"x{i}"

    async def body(engine: Engine, backend: LocalBackend) -> None:
        seen = 0
        results = engine.stream(ONE, endless(), backend=backend)
        async for _ in results:
            seen += 1
            assert len(pulled) - seen <= 2 * 16 + 1
            if seen == 200:
                break
        await results.aclose()

    over_actors(server, body, crew)


def test_results_that_come_close_together_share_a_message() -> None:
    """A message costs as much as a call; nobody waits for more than 5 ms."""
    server = LoopbackServer(echo, latency=lambda i, body: 0.1 + 0.00025 * (i % 20))
    _, seconds, crew = spread(server, map(str, range(400)), max_concurrent=40)
    assert sum(hand.reports for hand in crew.hands) < 400 / 4
    assert seconds < 10 * 0.105 / 0.97


def test_all_slots_are_in_use_from_the_first_round_trip_on() -> None:
    """Actors are given enough for them before they have told of anything."""
    server = LoopbackServer(echo, latency=10.0)
    _, seconds, _ = spread(server, map(str, range(200)), max_concurrent=100)
    assert seconds < 20.2
    assert server.max_in_flight == 100


def test_an_ordered_stream_yields_in_input_order() -> None:
    """Whichever actor is faster."""
    server = LoopbackServer(echo, latency=lambda i, body: 0.1 + 0.37 * (i % 7))
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> list[int]:
        inputs = [f"x{i}" for i in range(60)]
        results = engine.stream(ONE, inputs, ordered=True, backend=backend)
        return [result.index async for result in results]

    assert over_actors(server, body, crew) == list(range(60))


def test_max_inflight_counts_the_inputs_of_all_actors() -> None:
    """It is the engine's setting, wherever they run."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> None:
        await engine.map(ONE, [str(i) for i in range(30)], backend=backend)

    over_actors(server, body, crew, max_inflight=3)
    assert server.max_in_flight == 3


# -- the books ---------------------------------------------------------------------


def test_statistics_sum_what_the_actors_did() -> None:
    """By alias and by module, as after a local map."""
    server = LoopbackServer(echo, latency=0.1)
    inputs = [f"x{i}" for i in range(20)]
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        results = await engine.map(
            Twice(), inputs, errors="collect", backend=backend, record=True
        )
        assert [result.inputs for result in results] == [(each,) for each in inputs]
        assert all(len(result.record.nodes) == 2 for result in results)
        return engine.statistics(), sum(r.usage.requests for r in results)

    there, requests = over_actors(server, body, crew)
    manager = reached({"fast": endpoint(max_concurrent=8)}, one=server)

    async def here(engine: Engine) -> Any:
        await engine.map(Twice(), inputs)
        return engine.statistics()

    local = engine_on(manager, here)
    assert there.total.requests == there.total.tries == requests == 40
    assert there.total.usage == local.total.usage
    assert there.by_module["first"].usage == local.by_module["first"].usage
    assert there.total.in_flight == 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_budget_of_requests_is_exact_over_all_actors(size: int) -> None:
    """As many requests leave as it allows, then inputs fail; and it stays spent."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(size, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        inputs = [str(i) for i in range(100)]
        results = await engine.map(ONE, inputs, errors="collect", backend=backend)
        account: Any = engine.resources.spending.account
        assert account.spent.requests == 37
        again = await engine.map(ONE, ["a"], errors="collect", backend=backend)
        return results, again

    results, again = over_actors(server, body, crew, budget=Budget(requests=37))
    assert server.count == 37
    assert sum(result.ok for result in results) == 37
    failed = next(result.error for result in results if not result.ok)
    assert isinstance(failed, BudgetExceededError)
    assert "the limit is 37 requests: 37 requests spent" in str(again[0].error)


def test_what_a_dead_actor_might_have_spent_counts_as_spent() -> None:
    """A budget is never overrun because somebody died."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        asyncio.get_running_loop().call_later(0.35, lambda: crew.hands[0].kill())
        inputs = [str(i) for i in range(100)]
        results = await engine.map(ONE, inputs, errors="collect", backend=backend)
        account: Any = engine.resources.spending.account
        assert account.spent.requests == 37
        return results

    results = over_actors(server, body, crew, budget=Budget(requests=37))
    assert len(crew.hands) == 3
    assert server.count <= 37
    assert 20 <= sum(result.ok for result in results) <= 37


def test_a_budget_of_tokens_is_overrun_by_no_more_than_in_a_local_map() -> None:
    """Reserved at the estimate, settled by the answer, in one place."""
    text = "word " * 40
    inputs = [f"{i} {text}" for i in range(100)]
    used = []
    for size in (0, 2):
        server = LoopbackServer(text, latency=0.1)
        budget = Budget(tokens=4_000)

        async def body(engine: Engine, backend: LocalBackend | None) -> Any:
            await engine.map(ONE, inputs, errors="collect", backend=backend)
            return engine.statistics().total.usage.total_tokens

        if size:
            crew = LocalCrew(size, server)
            used.append(over_actors(server, body, crew, budget=budget))
        else:
            manager = reached({"fast": endpoint(max_concurrent=8)}, one=server)
            used.append(engine_on(manager, lambda e: body(e, None), budget=budget))
    assert 0.8 * used[0] <= used[1] <= 4_200


# -- errors ------------------------------------------------------------------------


def test_a_failed_input_costs_only_itself() -> None:
    """The error is that of a local run, with node and alias."""
    server = LoopbackServer(echo, errors=lambda i, body: 400 if i == 3 else None)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        inputs = [str(i) for i in range(10)]
        return await engine.map(ONE, inputs, errors="collect", backend=backend)

    results = over_actors(server, body, crew)
    failed = [result for result in results if not result.ok]
    assert len(failed) == 1
    assert isinstance(failed[0].error, ExecutionError)
    assert failed[0].error.alias == "fast"


def test_a_map_that_raises_says_which_input_it_was() -> None:
    """The first failure ends the map, and nothing stays behind."""
    server = LoopbackServer(echo, latency=0.1, errors=[400])
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        with pytest.raises(ExecutionError) as caught:
            await engine.map(ONE, [str(i) for i in range(100)], backend=backend)
        assert "It was input" in caught.value.__notes__[0]
        assert server.in_flight == 0

    over_actors(server, body, crew)


def test_what_cannot_travel_is_an_error_that_names_it() -> None:
    """A client, a module, an input, an output."""
    lock = threading.Lock()
    client = FunctionClient(lambda request: "ok")  # pickle takes no lambda

    async def map_of(module: Any, inputs: Any, **resources: Any) -> Any:
        async with Engine(resources, progress=False) as engine:
            backend = LocalBackend(LocalCrew(1, None))
            return await engine.map(module, inputs, errors="collect", backend=backend)

    with pytest.raises(ConfigurationError, match="client of alias 'fast', a Function"):
        virtually(lambda: map_of(ONE, ["a"], fast=client))
    holder = Locked()
    holder.lock = lock
    fast = {"fast": endpoint()}
    with pytest.raises(ModuleError, match="Locked cannot be sent to another process"):
        virtually(lambda: map_of(holder, ["a"], **fast))
    holder.lock = Stays()
    with pytest.raises(ModuleError, match=r"another process \(TypeError: \)"):
        virtually(lambda: map_of(holder, ["a"], **fast))
    results = virtually(lambda: map_of(Locked(), ["a", lock], **fast))
    assert "the output of input 0 cannot leave" in str(results[0].error)
    assert "input 1 cannot be sent to another process" in str(results[1].error)


class Stays:
    """Cannot be pickled, and does not say why."""

    def __reduce__(self) -> Any:
        raise TypeError


class Locked(Twice):
    """Returns what cannot be pickled."""

    lock: Any = None

    def forward(self, text: str) -> Any:
        return threading.Lock()


class OddError(Exception):
    """Can be pickled, but not loaded again, as many an exception."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


@op
def check(value: int) -> int:
    """Fail if it is not 0."""
    if value:
        raise OddError("too much", "here")
    return value


class Fails(InferenceModule):
    """Fails on all but 0."""

    def forward(self, value: int) -> int:
        return check(value)


def test_an_error_that_cannot_be_loaded_keeps_its_message_and_its_node() -> None:
    """Without its cause."""

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        return await engine.map(Fails(), [0, 1], errors="collect", backend=backend)

    results = over_actors(None, body, LocalCrew(1, None))
    assert results[0].output == 0
    error = results[1].error
    assert isinstance(error, ExecutionError)
    assert str(error) == "'check#1' failed: OddError: too much at here"
    assert error.node == "check#1"
    assert "cannot leave its process (TypeError" in error.__notes__[0]


def test_an_actor_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not set there, for one."""
    monkeypatch.delenv("SOME_KEY", raising=False)
    resources = {"fast": endpoint(api_key_env="SOME_KEY")}

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        await engine.map(ONE, ["a"], backend=backend)

    with pytest.raises(ConfigurationError, match="SOME_KEY is not set") as caught:
        over_actors(None, body, LocalCrew(2, None), resources=resources)
    assert "found by an actor" in caught.value.__notes__[0]


def test_a_journal_in_use_elsewhere_is_an_error(tmp_path: Path) -> None:
    """Nothing is sent, and the engine has its journal again."""
    crew = LocalCrew(2, None)
    start = crew.start

    async def start_late(charge: Any) -> Any:
        other = JournalStore(tmp_path / "run.db")
        try:
            return await start(charge)
        finally:
            other.close()

    crew.start = start_late

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        with pytest.raises(JournalError, match="in use"):
            await engine.map(ONE, ["a"], backend=backend)
        assert engine._scheduler.memory is not None
        engine._scheduler.memory.check()

    over_actors(None, body, crew, journal=tmp_path / "run.db")


def test_an_input_that_kills_its_actors_fails_alone() -> None:
    """It is tried with three of them; the others get their answers."""
    server = LoopbackServer(echo, latency=1.0)
    crew = LocalCrew(2, server)

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        async def kill_whoever_has(index: int) -> None:
            while True:
                await asyncio.sleep(0.1)
                for hand in crew.hands:
                    if index in hand.taken and not hand.dead.done():
                        hand.kill()

        killing = asyncio.ensure_future(kill_whoever_has(4))
        inputs = [str(i) for i in range(12)]
        results = await engine.map(ONE, inputs, errors="collect", backend=backend)
        killing.cancel()
        await asyncio.wait([killing])
        return results

    results = over_actors(server, body, crew)
    assert [result.index for result in results] == list(range(12))
    lost = [result for result in results if not result.ok]
    assert 4 in [result.index for result in lost]
    assert isinstance(lost[0].error, ActorLostError)
    assert "several actors that died" in str(lost[0].error)


def test_a_lost_coordinator_ends_the_map(tmp_path: Path) -> None:
    """What it has acknowledged is in the journal; nothing hangs."""
    server = LoopbackServer(echo, latency=0.1)
    crew = LocalCrew(2, server)

    def lose() -> None:
        for hand in crew.hands:
            hand.link.lost = True

    async def body(engine: Engine, backend: LocalBackend) -> Any:
        asyncio.get_running_loop().call_later(1.0, lose)
        inputs = [str(i) for i in range(500)]
        with pytest.raises(ActorLostError, match="the coordinator is gone"):
            await engine.map(ONE, inputs, backend=backend)

    over_actors(server, body, crew)


def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is pulled or sent."""
    monkeypatch.setitem(sys.modules, "ray", None)

    async def main() -> None:
        async with Engine({"fast": endpoint()}, progress=False) as engine:
            with pytest.raises(ConfigurationError, match=r"'inf-engine\[ray\]'"):
                await engine.map(ONE, ["a"], backend=RayBackend())

    virtually(main)


def test_wrong_arguments_of_the_backend_are_named() -> None:
    """Before anything is started."""
    with pytest.raises(ConfigurationError, match="cannot use a Ray Client"):
        RayBackend("ray://127.0.0.1:10001")
    with pytest.raises(ConfigurationError, match="actors must be an int"):
        RayBackend(actors=0)
    with pytest.raises(ConfigurationError, match="cpus must be above 0, not 0"):
        RayBackend(cpus=0)
    with pytest.raises(ConfigurationError, match="patience must be above 0, not '9'"):
        RayBackend(patience=cast("Any", "9"))
