"""The cache at the far end: equal requests are paid once, whoever asks."""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Flow, echo, virtually

from inf_engine import Engine, InferenceModule, LLMInference, ModuleList
from inf_engine import functional as F
from inf_engine.errors import EndpointServerError, JournalError, RequestRefusedError
from inf_engine.journal import JournalStore
from inf_engine.testing import FunctionClient, LoopbackServer
from inf_engine.types import LLMRequest


def cached(path: Path, body: Any, client: Any, **options: Any) -> Any:
    """Run `body(engine)` with a cache; nothing may be left running."""

    async def main() -> Any:
        async with Engine(
            {"m": client}, cache=path, progress=False, **options
        ) as engine:
            return await body(engine)

    return virtually(main)


def mapped(path: Path, inputs: Any, client: Any, **options: Any) -> Any:
    """Map one call over inputs."""
    return cached(path, lambda e: e.map(Ask(), inputs), client, **options)


def size(path: Path) -> int:
    """How many answers a file has."""
    with JournalStore(path) as store:
        return len(store)


def numbered(latency: float = 1.0) -> FunctionClient:
    """A client whose answers are all different."""
    count = iter(range(1000))
    return echo(latency, lambda r: f"{r.prompt} {next(count)}")


def failing_first(times: int = 1) -> FunctionClient:
    """A client that refuses the first requests."""
    left = iter(range(times))

    def answer(request: LLMRequest) -> Any:
        failed = next(left, None) is not None
        return RequestRefusedError("no", status=400) if failed else "yes"

    return echo(1.0, answer)


# -- what is one request ---------------------------------------------------------------


def test_equal_requests_of_inputs_runs_and_engines(tmp_path: Path) -> None:
    """One request for all of them; other inputs, other modules, other classes too."""
    path = tmp_path / "cache.db"
    first, second = numbered(), numbered()

    async def body(engine: Engine) -> Any:
        one = await engine.run(Ask(), "a")
        two = await engine.map(Flow(lambda m, x: m.llm("a")), [1, 2])
        return [one, *two]

    assert cached(path, body, first) == ["a 0"] * 3
    assert len(first.requests) == 1
    assert cached(path, body, second) == ["a 0"] * 3
    assert second.requests == []


def test_a_hundred_at_once_are_one(tmp_path: Path) -> None:
    """They follow the first, in no time of their own, and hold no slot."""
    path = tmp_path / "cache.db"
    client = numbered()

    async def body(engine: Engine) -> Any:
        outputs = await engine.map(Ask(), ["a"] * 100)
        return outputs, engine.statistics().total

    outputs, total = cached(path, body, client, max_inflight=200)
    assert outputs == ["a 0"] * 100
    assert client.arrivals == [0.0]
    assert (total.requests, total.cache_hits, total.journal_hits) == (1, 99, 0)
    assert size(path) == 1


async def test_a_hundred_at_once_are_one_at_a_real_server(tmp_path: Path) -> None:
    """The same over loopback, where the server counts."""
    async with LoopbackServer("ok", latency=0.02) as server:
        table = {"provider": "openai-compatible", "model": "x", "max_concurrent": 8}
        resources = {"m": {**table, "base_url": server.base_url}}
        for _ in range(2):
            async with Engine(
                resources,
                cache=tmp_path / "cache.db",
                max_inflight=100,
                progress=False,
            ) as engine:
                assert await engine.map(Ask(), ["a"] * 100) == ["ok"] * 100
        assert server.count == 1


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", 0.7), ("seed", 3), ("max_tokens", 9)]
)
def test_sampling_is_part_of_the_key(tmp_path: Path, option: str, value: Any) -> None:
    """Another temperature is another request; none of them is left out."""
    path = tmp_path / "cache.db"
    modules = [Ask(), Ask(**{option: value}), Ask()]

    async def body(engine: Engine) -> Any:
        return [await engine.run(module, "a") for module in modules]

    client = numbered()
    assert cached(path, body, client) == ["a 0", "a 1", "a 0"]


class Jury(InferenceModule):
    """Five modules that ask the same."""

    def __init__(self) -> None:
        super().__init__()
        self.jury = ModuleList([LLMInference("m") for _ in range(5)])

    def forward(self, text: str) -> Any:
        return F.gather(*[member(text) for member in self.jury])


SAMPLERS: list[InferenceModule] = [
    Flow(lambda m, x: F.gather(*[m.llm(x) for _ in range(5)])),
    Jury(),
]


@pytest.mark.parametrize("module", SAMPLERS)
def test_samples_are_not_one(tmp_path: Path, module: InferenceModule) -> None:
    """Five equal calls for one input are five requests, and five hits afterwards."""
    path = tmp_path / "cache.db"
    first, second = numbered(), numbered()

    def body(engine: Engine) -> Any:
        return engine.run(module, "a")

    outputs = cached(path, body, first)
    assert sorted(outputs) == [f"a {i}" for i in range(5)]
    assert sorted(cached(path, body, second)) == sorted(outputs)
    assert second.requests == []
    assert size(path) == 5


def test_a_vote_is_of_five(tmp_path: Path) -> None:
    """`functional.vote` over one call, five times."""
    path = tmp_path / "cache.db"
    answers = iter(["x", "y", "x", "z", "x"])
    client = echo(1.0, lambda r: next(answers))
    vote = Flow(lambda m, x: F.vote([m.llm(x) for _ in range(5)]))
    for _ in range(2):
        assert cached(path, lambda e: e.run(vote, "a"), client) == "x"
    assert len(client.requests) == 5


def test_clients_that_were_handed_in_are_told_apart(tmp_path: Path) -> None:
    """They have no known model, so their alias counts."""
    clients = {name: echo(1.0, lambda r, n=name: n) for name in ("fast", "smart")}

    async def main() -> Any:
        async with Engine(
            clients, cache=tmp_path / "cache.db", progress=False
        ) as engine:
            return await asyncio.gather(*[engine.run(Ask(a), "x") for a in clients])

    assert virtually(main) == ["fast", "smart"]


def test_the_model_is_part_of_the_key_and_the_alias_is_not(tmp_path: Path) -> None:
    """Two names of one model share answers; another model has its own."""

    def table(model: str) -> dict[str, Any]:
        url = "http://nowhere.test/v1"
        return {"provider": "openai-compatible", "model": model, "base_url": url}

    resources = {"a": table("big"), "b": table("big"), "c": table("small")}
    client = numbered()

    async def main() -> Any:
        async with Engine(
            resources, cache=tmp_path / "cache.db", progress=False
        ) as engine:
            for deployment in engine.resources._deployments:
                deployment.client = client
            return [await engine.run(Ask(alias), "x") for alias in resources]

    assert virtually(main) == ["x 0", "x 0", "x 1"]


# -- who follows whom ---------------------------------------------------------------


def test_when_the_first_fails_the_next_goes(tmp_path: Path) -> None:
    """Its error is its own; one request at a time until there is an answer."""
    path = tmp_path / "cache.db"
    client = failing_first(2)

    def body(engine: Engine) -> Any:
        return engine.map(Ask(), ["a"] * 5, errors="collect")

    results = cached(path, body, client)
    assert [r.ok for r in results] == [False, False, True, True, True]
    assert client.arrivals == [0.0, 1.0, 2.0]
    assert size(path) == 1


def test_a_map_that_fails_asks_for_nobody(tmp_path: Path) -> None:
    """With errors="raise" the first failure ends them all; nothing leaves any more."""
    client = failing_first(100)
    with pytest.raises(RequestRefusedError):
        mapped(tmp_path / "cache.db", ["a"] * 50, client)
    assert client.arrivals == [0.0]


def test_when_the_first_is_cancelled_the_next_goes(tmp_path: Path) -> None:
    """At once, on the wire or in line; those that were cancelled meanwhile never."""
    path = tmp_path / "cache.db"
    client = echo(10.0)

    async def body(engine: Engine) -> Any:
        runs = [asyncio.create_task(engine.run(Ask(), "a")) for _ in range(5)]
        await asyncio.sleep(1)
        for number in (1, 3, 0):
            runs[number].cancel()
        await asyncio.sleep(1)
        assert client.arrivals == [0.0, 1.0]
        done = await asyncio.gather(*runs, return_exceptions=True)
        return [type(d).__name__ for d in done], engine.statistics().total

    kinds, total = cached(path, body, client)
    cancelled = "CancelledError"
    assert kinds == [cancelled, cancelled, "str", cancelled, "str"]
    assert (total.tries, total.requests, total.unknown) == (2, 1, 1)
    assert total.cache_hits == 1


def test_nobody_is_asked_for_those_that_have_left(tmp_path: Path) -> None:
    """All that followed are cancelled before the first: no request in their place."""
    client = echo(10.0)

    async def body(engine: Engine) -> Any:
        runs = [asyncio.create_task(engine.run(Ask(), "a")) for _ in range(20)]
        await asyncio.sleep(1)
        for run in reversed(runs):
            run.cancel()
        await asyncio.wait(runs)
        await asyncio.sleep(100)
        return engine.statistics().total

    total = cached(tmp_path / "cache.db", body, client)
    assert client.arrivals == [0.0]
    assert (client.cancelled, total.cache_hits) == (1, 0)


@pytest.mark.parametrize("what", ["break", "timeout", "close"])
def test_leaving_in_the_middle_leaves_nothing_behind(tmp_path: Path, what: str) -> None:
    """A stream that is left, a timeout, a closed engine: one request was sent."""
    client = echo(10.0, lambda r: r.prompt)

    async def body(engine: Engine) -> None:
        mapping = asyncio.create_task(engine.map(Ask(), ["a"] * 9))
        await asyncio.sleep(1)
        if what == "break":
            mapping.cancel()
        elif what == "close":
            await engine.aclose()
        with suppress(Exception, asyncio.CancelledError):
            await mapping

    options = {"timeout": 2.0} if what == "timeout" else {}
    cached(tmp_path / "cache.db", body, client, **options)
    assert client.in_flight == 0
    assert client.arrivals == [0.0]


def test_one_that_follows_and_its_own_timeout(tmp_path: Path) -> None:
    """It leaves in time, and the first goes on."""
    client = echo(10.0)

    async def body(engine: Engine) -> Any:
        first = asyncio.create_task(engine.run(Ask(), "a"))
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await engine.using(timeout=2.0).run(Ask(), "a")
        assert asyncio.get_running_loop().time() == 3.0
        return await first, await engine.run(Ask(), "a")

    assert cached(tmp_path / "cache.db", body, client) == ("A", "A")
    assert client.arrivals == [0.0]


def test_retries_of_the_first_are_for_all(tmp_path: Path) -> None:
    """While it is tried again the others wait."""
    answers = iter([EndpointServerError("no", status=500), "yes"])
    client = echo(1.0, lambda r: next(answers))
    assert mapped(tmp_path / "cache.db", ["a"] * 9, client) == ["yes"] * 9
    assert len(client.requests) == 2


def test_re_asks_and_streams_follow_too(tmp_path: Path) -> None:
    """An answer that needs two requests needs two for all; text is streamed."""
    path = tmp_path / "cache.db"

    def answer(request: LLMRequest) -> Any:
        return "no JSON" if len(request.messages) == 1 else ["a", "b"]

    client = echo(1.0, answer)
    lists = Ask(response_format=list[str])
    found = cached(path, lambda e: e.map(lists, ["x"] * 7), client)
    assert found == [["a", "b"]] * 7
    assert len(client.requests) == 2

    async def pieces(engine: Engine) -> Any:
        async def read() -> str:
            return "".join([p async for p in engine.stream_tokens(Ask(), "a b")])

        return await asyncio.gather(read(), read())

    streaming = echo()
    assert cached(path, pieces, streaming) == ["A B", "A B"]
    assert len(streaming.requests) == 1


def test_different_requests_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Only equal ones are one; slots are used by the others."""
    client = echo()
    inputs = [f"q{i % 4}" for i in range(40)]
    outputs = mapped(tmp_path / "cache.db", inputs, client)
    assert outputs == [text.upper() for text in inputs]
    assert Counter(client.prompts) == {f"q{i}": 1 for i in range(4)}


# -- with a journal ------------------------------------------------------------------


def both(
    tmp_path: Path, name: str, inputs: Any, client: Any, module: Any = None
) -> Any:
    """Map with a cache, and a journal of this name; return outputs and totals."""

    async def body(engine: Engine) -> Any:
        outputs = await engine.map(module or Ask(), inputs)
        return outputs, engine.statistics().total

    return cached(tmp_path / "cache.db", body, client, journal=tmp_path / name)


def test_an_answer_of_the_cache_is_kept_in_the_journal(tmp_path: Path) -> None:
    """So a run can be resumed without the cache; the journal is asked first."""
    outputs, total = both(tmp_path, "one.db", ["a", "b", "a"], numbered())
    assert outputs == ["a 0", "b 1", "a 0"]
    assert (total.requests, total.cache_hits, total.journal_hits) == (2, 1, 0)
    assert size(tmp_path / "one.db") == 2  # equal inputs have one key
    outputs, total = both(tmp_path, "two.db", ["b", "a"], numbered())
    assert outputs == ["b 1", "a 0"]
    assert (total.requests, total.cache_hits, total.journal_hits) == (0, 2, 0)
    outputs, total = both(tmp_path, "two.db", ["b", "a"], numbered())
    assert (total.requests, total.cache_hits, total.journal_hits) == (0, 0, 2)
    (tmp_path / "cache.db").unlink()
    silent = numbered()
    outputs, _ = both(tmp_path, "two.db", ["a", "b"], silent)
    assert outputs == ["a 0", "b 1"]
    assert silent.requests == []


def test_those_that_follow_are_in_the_journal_each_for_its_input(
    tmp_path: Path,
) -> None:
    """Ten inputs with one request: ten rows, so that each can be resumed."""
    module = Flow(lambda m, x: f"{x} {m.llm('same')}")
    client = numbered()
    outputs, _ = both(tmp_path, "one.db", list(range(10)), client, module)
    assert outputs == [f"{i} same 0" for i in range(10)]
    assert len(client.requests) == 1
    assert size(tmp_path / "one.db") == 10
    assert size(tmp_path / "cache.db") == 1


def test_a_cache_alone_needs_no_identity(tmp_path: Path) -> None:
    """Inputs that nobody can tell apart are no matter: only requests count."""

    class Odd:
        """An input of a class that nobody knows."""

    module = Flow(lambda m, x: m.llm("same"))
    inputs = [Odd() for _ in range(5)]
    client = numbered()
    found = cached(tmp_path / "cache.db", lambda e: e.map(module, inputs), client)
    assert found == ["same 0"] * 5
    with pytest.raises(JournalError, match="is a Odd, whose content is not known"):
        both(tmp_path, "one.db", inputs, client, module)
    assert len(client.requests) == 1


def test_an_input_that_cannot_be_told_takes_nobody_along(tmp_path: Path) -> None:
    """It fails before it could lead or follow; an equal request goes on."""

    async def body(engine: Engine) -> Any:
        module = Flow(lambda m, x: m.llm("same"))
        inputs: list[Any] = [1, object(), 2, object(), 3]
        return await engine.map(module, inputs, errors="collect")

    client = numbered()
    path, journal = tmp_path / "cache.db", tmp_path / "one.db"
    results = cached(path, body, client, journal=journal)
    assert [r.ok for r in results] == [True, False, True, False, True]
    assert client.arrivals == [0.0]
