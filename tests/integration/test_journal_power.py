"""Answers that must survive a loss of power: many share an fsync, and wait for it."""

import asyncio
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, virtually
from tests.integration.journal_helpers import rows

from inf_engine import Engine
from inf_engine.errors import JournalError
from inf_engine.execution.lasting import GroupCommit
from inf_engine.journal import JournalStore, Row


class Disk:
    """What a loss of power would leave of a journal: its files at the last fsync.

    Args:
        path: The journal.
        copy: A folder for the copy.

    Attributes:
        texts: The answers that a loss of power would leave.
    """

    def __init__(self, path: Path, copy: Path) -> None:
        self.path = path
        self.copy = copy / path.name
        self.syncs = 0
        self.texts: list[str] = []
        self.threads: set[str] = set()
        self.failure: OSError | None = None
        self.room = 0
        self.gate = threading.Event()
        self.gate.set()
        self._fsync = os.fsync
        self._lock = threading.Lock()
        copy.mkdir()

    def fsync(self, number: int) -> None:
        """Take the place of `os.fsync`."""
        self.gate.wait(30)
        if self.failure is not None and self.syncs >= self.room:
            raise self.failure
        with self._lock:
            self._copied(number)

    def _copied(self, number: int) -> None:
        self._fsync(number)
        self.threads.add(threading.current_thread().name)
        for ending in ("", "-wal"):
            copy = self.copy.with_name(self.copy.name + ending)
            copy.write_bytes(Path(f"{self.path}{ending}").read_bytes())
        self.texts = [row.response for row in rows(self.copy)]
        self.syncs += 1


@contextmanager
def disk_of(store: JournalStore, patch: pytest.MonkeyPatch) -> Generator[Disk]:
    """Note what of a store is on the disk."""
    path = Path(store.path)
    disk = Disk(path, path.parent / "disk")
    with store, patch.context() as patched:
        patched.setattr(os, "fsync", disk.fsync)
        yield disk


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    """A new journal that must survive a loss of power."""
    return JournalStore(tmp_path / "run.db", durability="power")


def row(number: int) -> Row:
    """Return a row."""
    return Row(number.to_bytes(16, "big"), response=str(number))


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until a thing is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the disk tells nobody
            await asyncio.sleep(0)


def test_one_fsync_for_a_turn_and_one_for_what_came_meanwhile(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 answers in one turn and 40 while the disk is busy: two fsyncs, no more."""
    told: dict[int, list[str]] = {}

    async def main() -> None:
        with disk_of(store, monkeypatch) as disk:
            group = GroupCommit([store])

            def keep(number: int) -> None:
                store.append(row(number))
                group.wait(lambda error: told.update({number: disk.texts}))
                assert not store.is_lasting(row(number).key)

            for number in range(30):
                keep(number)
            disk.gate.clear()
            for _ in range(20):  # the disk is busy, the loop is not
                await asyncio.sleep(0)
            for number in range(30, 70):
                keep(number)
                await asyncio.sleep(0)
            assert not told
            disk.gate.set()
            await until(lambda: len(told) == 70)
            assert disk.syncs == 2
            assert threading.current_thread().name not in disk.threads

    asyncio.run(main())
    assert all(str(number) in there for number, there in told.items())


def test_all_are_told_that_the_disk_failed(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the fsync, and those that came meanwhile; what lasts still counts."""
    told: list[JournalError | None] = []

    async def main() -> None:
        with disk_of(store, monkeypatch) as disk:
            group = GroupCommit([store])
            store.append(row(1))
            group.wait(told.append)
            await until(lambda: told)
            disk.failure = OSError(5, "Input/output error")
            disk.gate.clear()
            store.append(row(2))
            group.wait(told.append)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            store.append(row(3))
            group.wait(told.append)
            disk.gate.set()
            await until(lambda: len(told) == 3)
            assert store.get(row(1).key) == "1"
            assert store.get(row(2).key) is store.get(row(3).key) is None
            with pytest.raises(JournalError, match="takes no more answers"):
                store.append(row(4))

    asyncio.run(main())
    assert told[0] is None
    assert all("Input/output error. Make room on the disk" in str(e) for e in told[1:])


def test_a_group_that_is_closed_keeps_what_waits(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told any more, and all is on the disk when the close returns."""
    told: list[Any] = []

    async def main() -> None:
        with disk_of(store, monkeypatch) as disk:
            group = GroupCommit([store])
            store.append(row(1))
            group.wait(told.append)
            group.close()
            assert disk.texts == ["1"]
            for _ in range(10):
                await asyncio.sleep(0)

    asyncio.run(main())
    assert told == []


@pytest.mark.parametrize("with_cache", [False, True])
def test_no_answer_is_used_before_it_is_on_the_disk(
    store: JournalStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    with_cache: bool,
) -> None:
    """What a request was made of was on the disk when it left."""
    with disk_of(store, monkeypatch) as disk:
        early: list[str] = []

        def answer(request: Any) -> str:
            there = "".join(disk.texts)
            parts = request.prompt.split("+") if "+" in request.prompt else []
            early.extend(part for part in parts if part not in there)
            return request.prompt.upper()

        async def main() -> Any:
            client = echo(1.0, answer)
            cache = tmp_path / "cache.db" if with_cache else None
            async with Engine(
                {"m": client}, journal=store, cache=cache, progress=False
            ) as engine:
                texts = [f"a{n}" for n in range(12)]
                return await engine.map(Compare(), texts, texts[1:] + ["b"])

        outputs = virtually(main)
        assert outputs[0] == "A0+A1" and len(outputs) == 12
        assert early == []
        assert len(disk.texts) == 36
        assert disk.syncs <= 4


def test_equal_calls_and_those_that_come_back(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Followers, the answers of the journal and of a cache: each waits for its row."""
    with (
        disk_of(store, monkeypatch) as disk,
        JournalStore(tmp_path / "cache.db", durability="power") as cache,
    ):

        async def main(client: Any) -> Any:
            async with Engine(
                {"m": client}, journal=store, cache=cache, progress=False
            ) as engine:
                flow = Flow(lambda m, x: m.llm(m.llm("same")))
                return await engine.map(flow, range(10))

        for requests in (2, 0):
            client = echo()
            assert virtually(lambda client=client: main(client)) == ["SAME"] * 10
            assert len(client.requests) == requests
        assert len(disk.texts) == 20
        assert len(cache) == 2


def test_a_disk_that_fails_under_a_run(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every input that had no answer on the disk fails; nothing more is paid."""
    client = echo()

    async def main() -> Any:
        with disk_of(store, monkeypatch) as disk:
            disk.failure, disk.room = OSError(28, "No space left on device"), 1
            async with Engine(
                {"m": client}, journal=store, max_inflight=4, progress=False
            ) as engine:
                inputs = [f"in {i}" for i in range(40)]
                return await engine.map(Ask(), inputs, errors="collect")

    results = virtually(main)
    assert all(isinstance(r.error, JournalError) for r in results if not r.ok)
    assert sum(r.ok for r in results) < 5
    assert len(client.requests) <= 8
    assert "No space left on device" in str(results[5].error)


def test_an_engine_that_is_closed_while_the_disk_is_busy(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was paid for: it is on the disk, though nobody waits for it."""

    async def main() -> None:
        with disk_of(store, monkeypatch) as disk:
            engine = Engine({"m": echo(0.0)}, journal=store, progress=False)
            run = asyncio.create_task(engine.run(Ask(), "a"))
            await until(lambda: len(store))
            await engine.aclose()
            await asyncio.gather(run, return_exceptions=True)
            assert len(disk.texts) == 1

    asyncio.run(main())
