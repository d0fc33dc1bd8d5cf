"""Resume after kill -9: real processes, real sockets, and a server that counts.

A child maps a program over inputs, with a journal; it is killed at a random moment and
started again, until it comes to an end. What the server saw above the distinct calls
must have been in flight at a kill: sent, and not yet in the file.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inf_engine.journal import JournalStore
from inf_engine.testing import LoopbackServer

ROOT = Path(__file__).parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
INPUTS = 40
CALLS = 3 * INPUTS
SLOTS = 8

FORKER = """
import asyncio, json, os, sys
from inf_engine import Engine, InferenceModule, LLMInference
import inf_engine.clients.openai, inf_engine.clients.transport, aiohttp, sqlite3

class Compare(InferenceModule):
    def __init__(self):
        super().__init__()
        self.extract = LLMInference("m")
        self.join = LLMInference("m", system_prompt="Join.")

    async def forward(self, number, text):
        left, right = await asyncio.gather(
            self.extract(f"left of {text}"), self.extract(f"right of {text}")
        )
        return await self.join(f"{number}: {left} + {right}")

async def main(task):
    async with Engine(task["resources"], progress=False, **task["options"]) as engine:
        numbers = range(task["inputs"])
        texts = [f"document {n}" for n in numbers]
        return await engine.map(Compare(), numbers, texts)

for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if not child:
        code = 1
        try:
            output = asyncio.run(main(task))
            with open(task["out"], "w") as file:
                json.dump(output, file)
            code = 0
        finally:
            os._exit(code)
    print(f"pid {child}", flush=True)
    _, status = os.waitpid(child, 0)
    print(f"end {os.waitstatus_to_exitcode(status)}", flush=True)
"""


def shouted(body: dict[str, Any]) -> str:
    """Answer with the prompt in upper case."""
    return str(body["messages"][-1]["content"]).upper()


def expected() -> list[str]:
    """What an uninterrupted run gives, by hand."""
    return [
        f"{n}: LEFT OF DOCUMENT {n} + RIGHT OF DOCUMENT {n}".upper()
        for n in range(INPUTS)
    ]


@dataclass
class Child:
    """A process that forks a map whenever it is told to."""

    process: asyncio.subprocess.Process
    server: LoopbackServer
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """Where the output of a map that ended is."""
        return self.folder / "out.json"

    async def start(self) -> int:
        """Start the map; return the id of its process."""
        url = self.server.base_url
        endpoint = {"provider": "openai-compatible", "model": "x", "base_url": url}
        task = {
            "resources": {"m": {**endpoint, "max_concurrent": SLOTS}},
            "options": {name: str(path) for name, path in self.files.items()},
            "inputs": INPUTS,
            "out": str(self.out),
        }
        assert self.process.stdin
        self.process.stdin.write(f"{json.dumps(task)}\n".encode())
        return int((await self._line("pid"))[4:])

    async def ended(self) -> int:
        """Wait until the map has ended; return its exit code."""
        code = int((await self._line("end"))[4:])
        await self.server.until(lambda: self.server.open_connections == 0)
        return code

    async def _line(self, word: str) -> str:
        assert self.process.stdout
        async with asyncio.timeout(30):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith(word), line
        return line

    async def killed(self, requests: int, seconds: float) -> bool:
        """Start the map, kill it after so many requests and seconds; was it killed?"""
        goal = self.server.count + requests
        process = await self.start()
        end = asyncio.ensure_future(self.ended())
        there = asyncio.ensure_future(
            self.server.until(lambda: self.server.count >= goal)
        )
        await asyncio.wait([there, end], return_when=asyncio.FIRST_COMPLETED)
        there.cancel()
        if not end.done():
            await asyncio.sleep(seconds)
            os.kill(process, signal.SIGKILL)
        code = await end
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def kept(self) -> int:
        """How many answers are in the journal."""
        path = self.files["journal"]
        if not path.exists():
            return 0
        with JournalStore(path, read_only=True) as store:
            return len(store)


@asynccontextmanager
async def children(folder: Path) -> AsyncGenerator[Child]:
    """A server and a process that forks maps."""
    pipe = asyncio.subprocess.PIPE
    async with LoopbackServer(shouted, latency=0.004) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FORKER, env=ENVIRON, stdin=pipe, stdout=pipe
        )
        try:
            yield Child(process, server, folder)
        finally:
            assert process.stdin
            process.stdin.close()
            await process.wait()
            await asyncio.sleep(0)  # its pipes are closed in the next turn


async def one_map(child: Child, rng: random.Random) -> int:
    """Kill a map until it comes to an end, and check it; return the kills."""
    kills = lost = 0
    begin = child.server.count
    while True:
        moment = rng.randrange(30), rng.uniform(0.0, 0.008)
        sent, kept = child.server.count, child.kept()
        if not await child.killed(*moment):
            break
        kills += 1
        in_flight = (child.server.count - sent) - (child.kept() - kept)
        assert 0 <= in_flight <= SLOTS
        lost += in_flight
    assert json.loads(child.out.read_text()) == expected()
    assert child.kept() == CALLS
    assert child.server.count - begin == CALLS + lost
    return kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Requests = distinct calls + those in flight at a kill; the output is whole."""
    rng = random.Random(11)
    kills = maps = 0
    async with children(tmp_path) as child:
        while kills < 50:
            child.files = {"journal": tmp_path / f"{maps}.db"}
            kills += await one_map(child, rng)
            maps += 1
        await one_uninterrupted(child)
    assert maps > 1


async def one_uninterrupted(child: Child) -> None:
    """The map without a kill, twice: the second asks nothing."""
    child.files = {"journal": child.folder / "whole.db"}
    for requests in (CALLS, 0):
        begin = child.server.count
        await child.start()
        assert await child.ended() == 0
        assert json.loads(child.out.read_text()) == expected()
        assert child.server.count - begin == requests


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_killed_with_a_cache_too(tmp_path: Path) -> None:
    """An answer is in both files or in the journal alone; neither is asked again."""
    async with children(tmp_path) as child:
        names = ("journal", "cache")
        child.files = {name: tmp_path / f"{name}.db" for name in names}
        assert await one_map(child, random.Random(5)) > 3
        child.files["journal"] = tmp_path / "another.db"
        begin = child.server.count
        await child.start()
        assert await child.ended() == 0
        with JournalStore(child.files["cache"], read_only=True) as store:
            assert child.server.count - begin == 0
            assert len(store) == CALLS
