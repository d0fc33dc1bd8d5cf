"""`ResourceManager`: from a config to what a server receives, one knob at a time."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, echo, limited, virtually

from inf_engine import (
    EndpointConfig,
    Engine,
    ExecutionError,
    ResourceConfig,
    UnknownAliasError,
)
from inf_engine.errors import (
    ConfigurationError,
    EndpointServerError,
    EndpointTimeoutError,
    RateLimitError,
    RequestRefusedError,
)
from inf_engine.resources.job import Job, Order
from inf_engine.resources.manager import ResourceManager
from inf_engine.testing import FunctionClient, LoopbackServer, VirtualTimeLoop
from inf_engine.types import LLMRequest, LLMResponse, Message

HELLO = LLMRequest(messages=(Message("user", "hello"),))


def compatible(server: LoopbackServer, **options: Any) -> dict[str, Any]:
    """A table of one endpoint."""
    return {
        "provider": "openai-compatible",
        "model": "some-model",
        "base_url": server.base_url,
        **options,
    }


async def until(true: Callable[[], bool]) -> None:
    """Let the loop go on until something holds."""
    while not true():  # noqa: ASYNC110 - a server on the same loop
        await asyncio.sleep(0)


# -- what an engine can be given --------------------------------------------------


def as_toml(table: dict[str, Any], folder: Path) -> str:
    """A TOML file, by its path as text."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / "resources.toml"
    path.write_text("[endpoints.m]\n" + "\n".join(lines))
    return str(path)


def as_yaml(table: dict[str, Any], folder: Path) -> Path:
    """A YAML file, as a Path."""
    path = folder / "resources.yaml"
    path.write_text(json.dumps({"endpoints": {"m": table}}))
    return path


SOURCES: dict[str, Any] = {
    "toml": as_toml,
    "yaml": as_yaml,
    "dict": lambda table, folder: {"endpoints": {"m": table}},
    "config": lambda table, folder: ResourceConfig({"m": EndpointConfig(**table)}),
    "endpoint": lambda table, folder: {"m": EndpointConfig(**table)},
    "manager": lambda table, folder: ResourceManager({"endpoints": {"m": table}}),
}


@pytest.mark.parametrize("source", SOURCES)
async def test_an_engine_takes_resources_in_any_form(
    source: str, tmp_path: Path
) -> None:
    """Path, dict, config or manager: the same request arrives."""
    async with LoopbackServer("fine") as server:
        async with Engine(SOURCES[source](compatible(server), tmp_path)) as engine:
            assert engine.resources.aliases == ("m",)
            assert repr(engine) == "Engine(m)"
            assert await engine.run(Ask(), "hello") == "fine"
        (request,) = server.requests
        assert request.path == "/v1/chat/completions"
        assert request.body["model"] == "some-model"
        assert request.body["messages"] == [{"role": "user", "content": "hello"}]
        assert "authorization" not in request.headers


class OnlyComplete:
    """The smallest client there can be."""

    async def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse(text=f"<{request.prompt}>")


async def test_a_client_needs_only_complete() -> None:
    """No stream, no aclose."""
    async with Engine({"m": OnlyComplete()}, observers=[lambda event: None]) as engine:
        assert await engine.map(Ask(), "ab") == ["<a>", "<b>"]


# -- the knobs of an endpoint -----------------------------------------------------


async def test_nothing_is_sent_before_the_first_call() -> None:
    """Making and closing an engine opens no connection."""
    async with LoopbackServer() as server:
        async with Engine({"endpoints": {"m": compatible(server)}}):
            pass
        assert server.connections == 0


async def test_a_key_comes_from_the_environment_and_goes_to_the_server_only() -> None:
    """As a bearer header; in no repr."""
    async with LoopbackServer("ok", api_key="sk-secret") as server:
        table = compatible(server, api_key_env="A_KEY")
        manager = ResourceManager(
            {"endpoints": {"m": table}}, environ={"A_KEY": "sk-secret"}
        )
        async with Engine(manager) as engine:
            record = await engine.record(Ask(), "x")
        assert server.requests[0].headers["authorization"] == "Bearer sk-secret"
        assert "sk-secret" not in repr(record) + repr(manager._routes) + repr(engine)


async def test_anthropic_is_a_provider() -> None:
    """Its path, its key header."""
    async with LoopbackServer("ok", api_key="k") as server:
        config = EndpointConfig("anthropic", "claude", base_url=server.anthropic_url)
        manager = ResourceManager({"m": config}, environ={"ANTHROPIC_API_KEY": "k"})
        async with Engine(manager) as engine:
            assert await engine.run(Ask(max_tokens=5), "x") == "ok"
        assert server.requests[0].path == "/v1/messages"
        assert server.requests[0].headers["x-api-key"] == "k"


async def test_timeout_is_for_one_attempt() -> None:
    """A server that hangs once is left after the timeout and asked again."""
    async with LoopbackServer("ok", errors=["hang"]) as server:
        table = compatible(server, timeout=0.1, retries=1)
        manager = ResourceManager({"endpoints": {"m": table}})
        manager._random.random = lambda: 0.0
        async with Engine(manager) as engine:
            record = await engine.record(Ask(), "x")
        assert server.count == 2
        assert isinstance(record.nodes[0].calls[0].error, EndpointTimeoutError)


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (4, 5)])
async def test_retries_are_tries_after_the_first(retries: int, tries: int) -> None:
    """Counted at the server."""
    async with LoopbackServer("ok", errors=lambda n, body: 500) as server:
        table = compatible(server, retries=retries)
        manager = ResourceManager({"endpoints": {"m": table}})
        manager._random.random = lambda: 0.0
        async with Engine(manager) as engine:
            with pytest.raises(ExecutionError, match="answered 500"):
                await engine.run(Ask(), "x")
        assert server.count == tries


async def test_what_cannot_pass_is_not_tried_again() -> None:
    """A 400 is final."""
    async with LoopbackServer("ok", errors=[400]) as server:
        async with Engine({"endpoints": {"m": compatible(server)}}) as engine:
            with pytest.raises(ExecutionError) as caught:
                await engine.run(Ask(), "x")
        assert isinstance(caught.value.cause, RequestRefusedError)
        assert server.count == 1


async def test_the_server_never_sees_more_than_max_concurrent() -> None:
    """Shared by two maps and two runs; one pool of as many connections."""
    async with LoopbackServer("ok", latency=0.01) as server:
        table = compatible(server, max_concurrent=3)
        async with Engine({"endpoints": {"m": table}}) as engine:
            await asyncio.gather(
                engine.map(Ask(), "abcdef"),
                engine.map(Compare(), "gh", "ij"),
                engine.run(Ask(), "k"),
                engine.using(priority=3).run(Ask(), "l"),
            )
            assert (server.max_in_flight, server.connections) == (3, 3)
            assert server.count == 14
        assert server.in_flight == 0


async def test_cancelling_closes_the_request_at_the_server() -> None:
    """The server sees the client leave."""
    async with LoopbackServer("ok", errors=["hang"] * 3) as server:
        async with Engine({"endpoints": {"m": compatible(server)}}) as engine:
            task = asyncio.ensure_future(engine.map(Ask(), "abc"))
            await until(lambda: server.in_flight == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: server.in_flight == 0)
            assert len(asyncio.all_tasks()) == 1
            assert server.disconnects == 3
        await until(lambda: not server._open)


async def test_tokens_stream_from_a_server_as_they_are_written() -> None:
    """The pieces of server-sent events."""
    async with (
        LoopbackServer("one two three") as server,
        Engine({"endpoints": {"m": compatible(server)}}) as engine,
    ):
        pieces = [piece async for piece in engine.stream_tokens(Ask(), "x")]
        assert pieces == ["one", " two", " three"]
        assert server.requests[0].body["stream"] is True


# -- retries on the clock ---------------------------------------------------------


def waits(*errors: Exception, jitter: float) -> list[float]:
    """When each try left; the client answers at once."""
    script: list[Any] = [*errors, "ok"]
    client = FunctionClient(lambda request: script.pop(0))

    async def main() -> None:
        manager = ResourceManager({"m": client})
        manager._random.random = lambda: jitter
        await manager.complete("m", HELLO, retries=9)

    VirtualTimeLoop.run(main())
    return client.arrivals


def test_waits_grow_exponentially_with_full_jitter() -> None:
    """Half of 0.5, 1, 2 ... seconds at a random number of one half."""
    down = EndpointServerError("down")
    assert waits(down, down, down, jitter=0.5) == [0.0, 0.25, 0.75, 1.75]
    assert waits(down, down, jitter=0.0) == [0.0, 0.0, 0.0]


def test_retry_after_is_obeyed() -> None:
    """Never earlier than the endpoint asks for."""
    slow = RateLimitError("slow", retry_after=20.0)
    assert waits(slow, jitter=0.5) == [0.0, 20.0]


def test_a_slot_is_free_while_a_try_waits() -> None:
    """And is asked for again afterwards, in front."""
    script: list[Any] = [EndpointServerError("down")]
    client = echo(1.0, lambda r: script.pop() if script else r.prompt)
    manager = limited(client)
    manager._random.random = lambda: 0.999

    async def ask(text: str) -> None:
        request = LLMRequest((Message("user", text),))
        await manager.complete("m", request, order=Order(age=ord(text)))

    async def main() -> None:
        await asyncio.gather(*map(ask, "abc"))

    virtually(main)
    assert client.prompts == ["a", "b", "a", "c"]
    assert client.arrivals == [0.0, 1.0, 2.0, 3.0]


# -- the manager by itself --------------------------------------------------------


class Listener(Job):
    """Puts all that it is told into a list."""

    told: list[Any]

    def sent(self, attempt: Job) -> None:
        self.told.append("sent")

    def received(self, attempt: Job, outcome: Any) -> None:
        self.told.append(outcome)

    def ended(self, outcome: Any) -> None:
        self.told.append(("ended", outcome))


async def told_of(script: list[Any], *, stream: bool = False) -> list[Any]:
    """What a job is told while the client answers with a script."""
    client = FunctionClient(lambda request: script.pop(0))
    manager = ResourceManager({"m": client})
    manager._random.random = lambda: 0.0
    manager.check("m")
    job = Listener("m", HELLO)
    job.told = []
    job.delta = job.told.append if stream else None
    manager.submit(job)
    assert not job.told
    await until(lambda: bool(job.told) and isinstance(job.told[-1], tuple))
    return job.told


async def test_a_job_is_told_of_every_try() -> None:
    """Sent, then the outcome, each time; pieces if it wants them; the end once."""
    error = EndpointServerError("down")
    told = await told_of([error, "a b"], stream=True)
    assert told[:5] == ["sent", error, "sent", "a", " b"]
    assert told[6:] == [("ended", told[5])]
    assert told[5].text == "a b"


async def test_a_clients_own_exception_is_told_and_not_retried() -> None:
    """What is no EndpointError leaves at once, and is still one of the calls."""
    sent, error, end = await told_of([OSError("x"), "never"])
    assert (sent, type(error), end) == ("sent", OSError, ("ended", error))


async def test_an_unknown_alias_lists_the_known_ones() -> None:
    """Also when the manager is asked directly."""
    manager = ResourceManager({"fast": echo(), "smart": echo()})
    with pytest.raises(UnknownAliasError, match="known: fast, smart") as caught:
        await manager.complete("fats", HELLO)
    assert (caught.value.alias, caught.value.known) == ("fats", ("fast", "smart"))
    assert "did you mean 'fast'" in str(caught.value)


class Closing(FunctionClient):
    """Counts how often it was closed, and may fail at it."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(str)
        self.times = 0
        self.fails = fails

    async def aclose(self) -> None:
        self.times += 1
        if self.fails:
            raise OSError("cannot close")


async def test_every_client_is_closed_once_also_when_one_fails() -> None:
    """One client under two aliases is one client; a failure stops no other."""
    shared, bad = Closing(), Closing(fails=True)
    manager = ResourceManager({"a": shared, "b": bad, "c": shared, "d": OnlyComplete()})
    with pytest.raises(OSError, match="cannot close"):
        await manager.aclose()
    assert (shared.times, bad.times) == (1, 1)


def test_aliases_of_one_deployment_share_its_slots() -> None:
    """However many names it has, and the smallest of what they say counts."""
    one = EndpointConfig("openai", model="x", max_concurrent=2)
    same = EndpointConfig("openai", model="x", max_concurrent=9, timeout=5, retries=0)
    other = EndpointConfig("openai", model="y", max_concurrent=3)
    client = echo()

    async def main() -> None:
        manager = ResourceManager({"a": one, "b": same, "c": other}, environ={})
        for alias in "abc":
            manager._routes[alias].deployments[0].client = client
        assert (manager.slots("a", "b"), manager.slots("a", "b", "c")) == (2, 5)
        await asyncio.gather(*(manager.complete(a, HELLO) for a in "aabb"))
        assert client.max_in_flight == 2
        await asyncio.gather(*(manager.complete(a, HELLO) for a in "abcabcabc"))
        assert client.max_in_flight == 5

    virtually(main)


async def test_aliases_of_one_deployment_keep_their_timeouts() -> None:
    """A slot is the deployment's, a deadline the alias's."""
    async with LoopbackServer("ok", errors=["hang"] * 2) as server:
        quick = compatible(server, timeout=0.05, retries=0)
        manager = ResourceManager(
            {"endpoints": {"quick": quick, "slow": {**quick, "timeout": 60}}}
        )
        slow = asyncio.ensure_future(manager.complete("slow", HELLO))
        await until(lambda: server.in_flight == 1)
        with pytest.raises(EndpointTimeoutError, match="within 0.05 s"):
            await manager.complete("quick", HELLO)
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await manager.aclose()


async def test_a_client_whose_text_is_none_is_refused() -> None:
    """A failure is never None; the message says what to do instead."""
    none: Any = None

    class Client:
        async def complete(self, request: LLMRequest) -> LLMResponse:
            return LLMResponse(text=none)

    manager = ResourceManager({"m": Client()})
    for delta in (None, lambda piece: None):
        with pytest.raises(ConfigurationError, match="text is of type NoneType.*raise"):
            await manager.complete("m", HELLO, delta=delta)
