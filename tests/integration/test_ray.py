"""Maps over the actors of a real Ray cluster on this machine.

What the actors and the coordinator decide is tested without Ray (`test_scale.py`).
"""

import asyncio
import json
import os
import secrets
import time
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.scale_helpers import Twice

from inf_engine import ConfigurationError, Engine, LLMInference, op
from inf_engine.journal import JournalStore
from inf_engine.scale import RayBackend
from inf_engine.scale.parcel import dumper
from inf_engine.scale.ray_backend import RayCrew, RayHand
from inf_engine.testing import LoopbackServer

pytestmark = pytest.mark.slow


def echo(body: dict[str, Any]) -> str:
    """Answer with the system prompt and the last message."""
    return f"{body['messages'][0]['content']}:{body['messages'][-1]['content']}"


def children() -> list[str]:
    """The command lines of the processes that this one has started, and so on."""
    parents, found = {os.getpid()}, []
    for _ in range(4):
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                line = stat.with_name("cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            pid = int(stat.parent.name)
            if int(fields[1]) in parents and fields[0] != "Z" and pid not in parents:
                parents.add(pid)
                found.append(line)
    return [line for line in found if "ray" in line]


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    """Two actors on a cluster that the first map starts; nothing of it is left."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.delenv("RAY_ADDRESS", raising=False)
        init = {
            "address": "local",  # not one that runs here already
            "num_cpus": 2,
            "object_store_memory": 80_000_000,
            "_node_ip_address": "127.0.0.1",
        }
        yield RayBackend(actors=2, init=init)
        ray.shutdown()
    deadline = time.monotonic() + 60
    while left := children():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> list[RayHand]:
    """The actors of the maps of a test, in the order in which they were started."""
    found: list[RayHand] = []
    hire = RayCrew.hire

    def hired(crew: RayCrew) -> RayHand:
        found.append(hire(crew))
        return found[-1]

    monkeypatch.setattr(RayCrew, "hire", hired)
    return found


def resources(server: LoopbackServer, **limits: Any) -> dict[str, Any]:
    """One endpoint."""
    endpoint = {"provider": "openai-compatible", "model": "some-model"}
    return {"fast": {**endpoint, "base_url": server.base_url, **limits}}


@op
def here() -> int:
    """Return the process that it runs in."""
    return os.getpid()


class Where(Twice):
    """Says in which process the answer came."""

    def forward(self, text: str) -> Any:
        return self.first(text), here()


def test_ops_travel_as_functions_do() -> None:
    """By name from a module, by value from a function, a script or a notebook."""
    ray = pytest.importorskip("ray")
    dump, load = dumper(ray.cloudpickle), ray.cloudpickle.loads
    assert load(dump(here)) is here

    @op
    def down(number: int) -> int:
        return number and down.fn(number - 1)

    travelled = load(dump(down))
    assert travelled is not down
    assert travelled(3) == 0
    script = types.ModuleType("__main__")
    exec("from inf_engine import op\n@op\ndef more(n): return n + 1", vars(script))
    assert load(dump(vars(script)["more"]))(1) == 2


def test_a_cluster_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once, where Ray itself would try for minutes."""
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    async def main() -> None:
        endpoint = {
            "provider": "openai-compatible",
            "model": "m",
            "base_url": "http://x",
        }
        async with Engine({"fast": endpoint}, progress=False) as engine:
            with pytest.raises(ConfigurationError, match="reached or started at 127"):
                backend = RayBackend("127.0.0.1:1")
                await engine.map(LLMInference(alias="fast"), ["a"], backend=backend)

    asyncio.run(main())


def test_a_map_over_actors_gives_what_a_local_one_gives(
    backend: RayBackend, tmp_path: Path
) -> None:
    """In two other processes; the books are summed, and the journal goes on here."""
    inputs = [f"x{i}" for i in range(40)]
    journal = tmp_path / "run.db"

    async def main() -> None:
        given = resources(server, max_concurrent=8)
        async with Engine(given, journal=journal, progress=False) as engine:
            outputs = await engine.map(Where(), inputs, backend=backend)
            assert [text for text, _ in outputs] == [f"first:{each}" for each in inputs]
            pids = {pid for _, pid in outputs}
            assert len(pids) == 2
            assert os.getpid() not in pids
            assert engine.statistics().total.requests == 40
            locally = await engine.map(Where(), inputs)
            assert [text for text, _ in locally] == [text for text, _ in outputs]

    with LoopbackServer(echo, latency=0.05) as server:
        asyncio.run(main())
        assert server.count == 40
        assert server.max_in_flight <= 8


def asked(request: str) -> str:
    """What `echo` answers to a request of the journal."""
    return echo(json.loads(request))


def test_an_actor_that_is_killed_costs_only_what_was_in_flight(
    backend: RayBackend, hands: list[RayHand], tmp_path: Path
) -> None:
    """Every input is answered once, and no call that was journaled is paid twice."""
    inputs = [f"x{i}" for i in range(120)]
    journal = tmp_path / "run.db"
    kept: list[str] = []

    async def main() -> list[str]:
        given = resources(server, max_concurrent=8)
        found = {}
        async with Engine(given, journal=journal, progress=False) as engine:
            async for result in engine.stream(Twice(), inputs, backend=backend):
                assert result.index not in found
                found[result.index] = result.unwrap()
                if len(found) == 30:
                    with JournalStore(journal, read_only=True) as store:
                        kept.extend(asked(row.request) for row in store.rows())
                    hands[0].kill()
        return [found[index] for index in sorted(found)]

    with LoopbackServer(echo, latency=0.05, max_concurrent=8) as server:
        assert asyncio.run(main()) == [f"second:<first:{each}>" for each in inputs]
    assert len(hands) == 3
    counts = Counter(echo(body) for body in server.bodies)
    assert len(kept) >= 60
    assert {counts[text] for text in kept} == {1}
    assert len(counts) == 240
    assert server.count - 240 <= 16  # sent, or not acknowledged
    assert 429 not in server.statuses


def test_a_rate_holds_at_the_server_and_is_reached(backend: RayBackend) -> None:
    """The server refuses none, and sees at least 97 % of what it allows."""
    rate = 50

    async def main() -> None:
        given = resources(server, requests_per_minute=60 * rate, max_concurrent=40)
        async with Engine(given, progress=False) as engine:
            one = LLMInference(alias="fast")
            await engine.map(one, map(str, range(4 * rate)), backend=backend)

    limits: Any = {"requests_per_minute": 60 * rate, "headers": False}
    with LoopbackServer(latency=0.1, **limits) as server:
        asyncio.run(main())
    assert set(server.statuses) == {200}
    times = [request.arrival for request in server.requests]
    burst = rate / 4
    assert (len(times) - burst) / (times[-1] - times[0]) >= 0.97 * rate
