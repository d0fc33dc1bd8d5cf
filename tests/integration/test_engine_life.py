"""How an engine ends: on its loop, on another one, after its loop, or never."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, echo, virtually

from inf_engine import ConfigurationError, Engine
from inf_engine.errors import EngineStateError
from inf_engine.execution.forwards import Fiber
from inf_engine.testing import LoopbackServer


def private_threads() -> list[threading.Thread]:
    """The threads of engines that are alive."""
    return [t for t in threading.enumerate() if t.name == "inf-engine"]


async def test_leaving_a_block_after_run_sync_ends_the_private_loop() -> None:
    """As in a notebook, whose own loop runs all the time."""
    client = echo(0.0)
    async with Engine({"m": client}) as engine:
        assert engine.run_sync(Ask(), "x") == "X"
    assert client.closed
    assert private_threads() == []


@pytest.mark.parametrize(
    "close", [lambda e: e.close(), lambda e: asyncio.run(e.aclose())]
)
def test_an_engine_whose_loop_has_ended_can_be_closed(
    close: Callable[[Engine], None],
) -> None:
    """Also with open connections, and more than once."""
    with LoopbackServer("hi") as server:
        described = {"provider": "openai-compatible", "model": "m"}
        engine = Engine({"m": {**described, "base_url": server.base_url}})
        assert asyncio.run(engine.run(Ask(), "x")) == "hi"
        close(engine)
        close(engine)
        gc.collect()  # would warn of sockets that are left open
    with pytest.raises(EngineStateError, match="this engine is closed"):
        engine.run_sync(Ask(), "x")
    assert private_threads() == []


async def test_close_on_the_own_loop_says_what_to_await() -> None:
    """It would wait for itself."""
    async with Engine({"m": echo(0.0)}) as engine:
        await engine.run(Ask(), "x")
        with pytest.raises(EngineStateError, match="await engine.aclose()"):
            engine.close()


async def test_a_closed_engine_is_not_entered_again() -> None:
    """Neither with `async with` nor with `with`."""
    async with Engine({"m": echo(0.0)}) as engine:
        pass
    with pytest.raises(EngineStateError, match="this engine is closed"):
        async with engine:
            pass
    with pytest.raises(EngineStateError, match="this engine is closed"), engine:
        pass


def test_a_private_loop_ends_with_its_engine() -> None:
    """An engine that nobody closes leaves no thread when it is collected."""
    engine = Engine({"m": echo(0.0)})
    assert engine.run_sync(Ask(), "x") == "X"
    del engine
    gc.collect()
    assert private_threads() == []


SCRIPT = """
import asyncio, sys
from inf_engine import Engine, LLMInference
described = {"provider": "openai-compatible", "model": "m", "base_url": sys.argv[1]}
engine = Engine({"m": described}, progress=False)
module = LLMInference("m")
"""
LOOP = "loop = asyncio.new_event_loop()\n"


@pytest.mark.parametrize(
    "use",
    [
        "print(engine.run_sync(module, 'x'))",
        "print(asyncio.run(engine.run(module, 'x')))",
        f"{LOOP}print(loop.run_until_complete(engine.run(module, 'x')))",
        "print(engine.run_sync(module, 'x'))\ndel engine, module",
    ],
)
def test_an_engine_that_is_never_closed_exits_without_a_word(use: str) -> None:
    """Whoever leaves the closing out is not told about connections."""
    with LoopbackServer("hi") as server:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT + use, server.base_url],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.stdout, done.stderr, done.returncode) == ("hi\n", "", 0)


async def observe(event: Any) -> None:
    """An observer that nobody would await."""


class Observing:
    """The same as an object."""

    async def __call__(self, event: Any) -> None: ...


@pytest.mark.parametrize("observer", [observe, Observing()])
def test_an_async_observer_is_refused(observer: Any) -> None:
    """Its coroutines would never run."""
    with pytest.raises(ConfigurationError, match="is async, and nobody would await"):
        Engine({"m": echo()}, observers=[observer])


class Text(str):
    """A text that can be watched."""


def test_no_greenlet_outlives_its_engine() -> None:
    """What ran forwards goes with the engine, and so does what they were given."""

    async def main(*inputs: str) -> None:
        async with Engine({"m": echo(1.0)}, progress=False) as engine:
            await engine.map(Ask(), inputs)

    def fibers() -> int:
        gc.collect()
        return sum(type(o) is Fiber and not o.dead for o in gc.get_objects())

    before = fibers()
    given = Text("in")
    watched = weakref.ref(given)
    virtually(partial(main, given, "b", "c"))
    del given
    assert fibers() <= before
    assert watched() is None
