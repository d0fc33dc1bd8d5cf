"""Bad input, word for word: a typed error with what, where and the fix."""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, run, virtually

from inf_engine import (
    ConfigurationError,
    EndpointConfig,
    EndpointConnectionError,
    Engine,
    EngineStateError,
    ExecutionError,
    InferenceModule,
    LLMInference,
    MalformedResponseError,
    MissingKeyError,
    ModuleError,
    ModuleList,
    UnknownAliasError,
)
from inf_engine.testing import FunctionClient, LoopbackServer


class Nested(InferenceModule):
    """A good call, and deep below a module that is not used before it."""

    def __init__(self, alias: str) -> None:
        super().__init__()
        self.good = LLMInference("m")
        self.deep = ModuleList([Ask(alias)])

    def forward(self, text: str) -> Any:
        return self.deep[0](self.good(text))


# -- wrong types ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("m", "runs InferenceModule objects, not str: subclass InferenceModule"),
        (None, "not NoneType"),
        (Ask, "not type: .* pass an instance of it"),
        (lambda x: x, "not function"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "map", "record"])
def test_what_is_no_module_is_refused(module: Any, message: str, verb: str) -> None:
    """Every verb says what it runs."""

    async def main() -> None:
        async with Engine({"m": echo()}) as engine:
            with pytest.raises(ModuleError, match=message):
                await getattr(engine, verb)(module, ["x"])

    virtually(main)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (5, "resources must be a path, a dict, .* not int"),
        (None, "not NoneType"),
        (FunctionClient(str), "a dict of clients, not FunctionClient"),
        ({"m": 5}, "the client of alias 'm' must have 'async def complete"),
        ({"m": FunctionClient}, "is the class FunctionClient; give an instance"),
        ({5: FunctionClient(str)}, "an alias must be non-empty text, not 5"),
        ({"": FunctionClient(str)}, "an alias must be non-empty text"),
        ({"endpoints": [1]}, "endpoints: has to be a table of aliases, not list"),
        ({"endpoints": {}}, "binds no alias"),
        ({"m": {"provider": "openai"}}, "endpoints.m.model: is missing"),
        ({"endpoint": {"m": {}}}, "endpoint: is no known key; known: endpoints"),
        ({"m": {"provider": "x"}, "n": FunctionClient(str)}, "'x' is no provider"),
        ({"endpoints": {"m": {"provider": "opnai"}}}, "did you mean 'openai'"),
        ("nowhere.toml", "nowhere.toml: there is no such resources file"),
    ],
)
def test_wrong_resources_are_refused(resources: Any, message: str) -> None:
    """At construction, with what, where and the fix."""
    with pytest.raises(ConfigurationError, match=message):
        Engine(resources)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_inflight": 0}, "max_inflight must be an int ≥ 1, or None, not 0"),
        ({"max_inflight": True}, "max_inflight must be"),
        ({"max_inflight": "8"}, "max_inflight must be"),
        ({"timeout": -1}, "timeout must be a positive number of seconds"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "or None for no limit, not inf"),
        ({"retries": 1.5}, "retries must be an int ≥ 0"),
        ({"progress": "yes"}, "progress must be True, False or None, not 'yes'"),
        ({"observers": print}, "observers must be a list of callables"),
        ({"observers": [5]}, "observers must be a list of callables"),
    ],
)
def test_wrong_arguments_of_an_engine_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    """Each names itself and what it may be."""
    with pytest.raises(ConfigurationError, match=message):
        Engine({"m": echo()}, **arguments)


@pytest.mark.parametrize("prompt", [5, None, {"a": 1}, b"x", object()])
def test_a_prompt_that_is_no_text_fails_its_node_before_it_is_sent(prompt: Any) -> None:
    """The cause says what a prompt may be."""
    client = echo()
    with pytest.raises(ExecutionError, match="'llm#1'.*ModuleError: a ") as caught:
        run(Ask(), prompt, client=client)
    assert caught.value.attempt == 0
    assert client.requests == []


@pytest.mark.parametrize("kind", ["sync", "text", "async text"])
def test_a_client_that_answers_with_something_else_is_not_asked_again(
    kind: str,
) -> None:
    """It is the program that is wrong; a retry would only cost."""
    asked = []

    class Odd:
        def complete(self, request: Any) -> Any:
            asked.append(request)
            if kind != "async text":
                return None if kind == "sync" else "text"

            async def late() -> str:
                return "text"

            return late()

    with pytest.raises(ExecutionError, match="must return an LLMResponse") as caught:
        run(Ask(), "x", client=Odd())
    assert isinstance(caught.value.cause, ConfigurationError)
    assert len(asked) == 1


# -- aliases and keys -------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "record", "map"])
def test_an_unknown_alias_is_found_before_anything_is_paid(verb: str) -> None:
    """Also when only a nested module uses it; the known ones are listed."""
    client = echo()

    async def main() -> None:
        async with Engine({"m": client, "smart": client}) as engine:
            with pytest.raises(
                UnknownAliasError,
                match=r"unknown alias 'smrt' used by 'deep.0.llm'; known: m, smart "
                r"\(did you mean 'smart'\?\). Add \[endpoints.smrt\]",
            ):
                await getattr(engine, verb)(Nested("smrt"), "x")

    virtually(main)
    assert client.requests == []


def test_a_module_registered_nowhere_is_checked_when_it_is_called() -> None:
    """Nothing that was recorded before it has been sent."""
    hidden = [LLMInference("nobody")]

    def forward(m: Any, x: str) -> Any:
        return m.llm(x), hidden[0](x)

    client = echo()
    with pytest.raises(UnknownAliasError, match="unknown alias 'nobody'"):
        run(Flow(forward), "a", client=client)
    assert client.requests == []


def test_a_missing_key_names_the_variable_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found before the first request, never with another key's value."""
    monkeypatch.delenv("BAD_INPUT_KEY", raising=False)
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    config = EndpointConfig("openai", model="x", api_key_env="BAD_INPUT_KEY")
    client = echo()

    async def main() -> None:
        async with Engine({"m": client, "n": config}) as engine:
            with pytest.raises(MissingKeyError, match="BAD_INPUT_KEY is not set") as e:
                await engine.run(Nested("n"), "x")
            assert "sk-" not in str(e.value)
            assert "endpoints.n.api_key_env" in str(e.value)

    virtually(main)
    assert client.requests == []


def test_a_missing_model_file_is_found_before_anything_is_paid(tmp_path: Path) -> None:
    """The path is named."""
    pytest.importorskip("xllamacpp")
    config = EndpointConfig("local", model=str(tmp_path / "none.gguf"))
    client = echo()

    async def main() -> None:
        async with Engine({"m": client, "n": config}) as engine:
            with pytest.raises(ConfigurationError, match=r"none\.gguf"):
                await engine.run(Nested("n"), "x")

    virtually(main)
    assert client.requests == []


# -- endpoints --------------------------------------------------------------------


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def endpoint(url: str, **options: Any) -> EndpointConfig:
    """An OpenAI-compatible endpoint."""
    return EndpointConfig("openai-compatible", model="x", base_url=url, **options)


async def test_an_unreachable_server_is_named_and_nothing_answered_is_lost() -> None:
    """The record has what the other endpoint said."""
    dead = endpoint(f"http://127.0.0.1:{free_port()}/v1", retries=0)
    async with Engine({"m": echo(0.0), "n": dead}) as engine:
        with pytest.raises(ExecutionError, match="'deep.0.llm#1'.*'n'") as caught:
            await engine.run(Nested("n"), "PROMPT")
    assert isinstance(caught.value.cause, EndpointConnectionError)
    assert "127.0.0.1" in str(caught.value)
    assert "PROMPT" not in str(caught.value)
    assert caught.value.record.node("good#1").output == "PROMPT"


async def test_an_answer_that_is_not_json_is_a_malformed_response() -> None:
    """After the tries that are allowed; what was answered stays in the record."""
    async with LoopbackServer("ok", errors=[None, "malformed", "malformed"]) as server:
        resources = {"m": endpoint(server.base_url, retries=0)}
        async with Engine(resources) as engine:
            with pytest.raises(ExecutionError, match="MalformedResponseError") as e:
                await engine.run(Compare(), "one", "two")
        assert isinstance(e.value.cause, MalformedResponseError)
        assert server.count == 2
        assert server.in_flight == 0


async def test_every_server_failure_keeps_what_was_answered_before() -> None:
    """A map that collects has the good answers and the typed errors."""
    faults = [None, 400, None, 401, "reset"]
    async with LoopbackServer("ok", errors=faults) as server:
        resources = {"m": endpoint(server.base_url, retries=0, max_concurrent=1)}
        async with Engine(resources) as engine:
            results = await engine.map(Ask(), "abcde", errors="collect")
    assert [r.ok for r in results] == [True, False, True, False, False]
    assert [type(r.error.cause).__name__ for r in results if not r.ok] == [
        "RequestRefusedError",
        "AuthenticationError",
        "EndpointConnectionError",
    ]


# -- engines in the wrong place ---------------------------------------------------


def test_an_engine_after_close_says_so() -> None:
    """Every verb; closing again is nothing."""

    async def main() -> None:
        async with Engine({"m": echo()}) as engine:
            await engine.run(Ask(), "x")
        for begin in (engine.run, engine.map, engine.record):
            with pytest.raises(EngineStateError, match="this engine is closed"):
                await begin(Ask(), "x")
        with pytest.raises(EngineStateError, match="Make a new one"):
            engine.run_sync(Ask(), "x")
        await engine.aclose()
        engine.close()

    virtually(main)
    assert "inf-engine" not in [t.name for t in threading.enumerate()]


def test_closing_while_runs_go_on_ends_them_with_an_error() -> None:
    """Nobody waits for an answer that will not come."""
    client = echo(100.0)

    async def main() -> None:
        engine = Engine({"m": client})
        task = asyncio.ensure_future(engine.run(Ask(), "x"))
        await asyncio.sleep(1)
        await engine.aclose()
        with pytest.raises(EngineStateError, match="was closed while the run went on"):
            await task

    virtually(main)
    assert (client.cancelled, client.closed) == (1, True)


def test_an_engine_on_another_loop_says_so() -> None:
    """A second asyncio.run with the same engine; and awaiting after run_sync."""
    engine = Engine({"m": echo(0.0)})
    assert asyncio.run(engine.run(Ask(), "x")) == "X"
    for use in (engine.run, engine.map):
        with pytest.raises(EngineStateError, match="at home on another event loop"):
            asyncio.run(use(Ask(), "x"))
    with pytest.raises(EngineStateError, match="use engine.run_sync everywhere"):
        engine.run_sync(Ask(), "x")
    assert "inf-engine" not in [t.name for t in threading.enumerate()]


async def test_awaiting_after_run_sync_says_so() -> None:
    """run_sync has made the private loop the engine's home."""
    with Engine({"m": echo(0.0)}) as engine:
        assert engine.run_sync(Ask(), "x") == "X"
        with pytest.raises(EngineStateError, match="One|one Engine per loop"):
            await engine.run(Ask(), "x")


def in_child(work: Any) -> str:
    """What `work()` gives or raises in a forked process, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = f"gave {work()}"
        except BaseException as exc:  # noqa: BLE001 - told to the parent
            text = f"{type(exc).__name__}: {exc}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_an_engine_after_fork_says_so() -> None:
    """In the child it is refused, however it is used; the parent goes on."""
    with Engine({"m": echo(0.0)}) as engine:
        assert engine.run_sync(Ask(), "x") == "X"
        uses = [
            lambda: engine.run_sync(Ask(), "x"),
            lambda: asyncio.run(engine.run(Ask(), "x")),
            lambda: asyncio.run(engine.map(Ask(), "x")),
            engine.close,
        ]
        for use in uses:
            assert in_child(use).startswith(
                "EngineStateError: this engine was made before a fork"
            )
        assert engine.run_sync(Ask(), "y") == "Y"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_an_engine_forked_in_the_middle_of_a_loop_says_so() -> None:
    """In the child even asyncio no longer knows that a loop is running."""
    async with Engine({"m": echo(0.0)}) as engine:
        await engine.run(Ask(), "x")

        def use() -> Any:
            return engine.run(Ask(), "x").send(None)

        assert "EngineStateError: this engine was made before a fork" in in_child(use)
        assert await engine.run(Ask(), "y") == "Y"
    assert sys.exc_info() == (None, None, None)
