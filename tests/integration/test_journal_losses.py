"""Inputs that cannot be told apart, answers that cannot be kept, calls that end."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.integration.engine_helpers import (
    Ask,
    Flow,
    echo,
    limited,
    virtually,
)
from tests.integration.journal_helpers import (
    mapped,
    ran,
    texts,
)

from inf_engine import Engine
from inf_engine.errors import ExecutionError, JournalError, RequestRefusedError
from inf_engine.journal import JournalStore, Row
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest, LLMResponse

# -- which input it is --------------------------------------------------------------


class Document:
    """An input of a class that nobody knows."""

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.text = text


def of_document(m: Any, document: Any) -> Any:
    """Two calls about one document."""
    return m.llm(f"{m.llm(document.text)}!")


def test_an_input_that_cannot_be_told_fails_alone_and_unpaid(tmp_path: Path) -> None:
    """A JournalError that names the fix; the other inputs go on."""
    client = echo()
    flow = Flow(lambda m, x: m.llm(x if isinstance(x, str) else x.text))
    inputs = ["a", Document(1, "secret"), "b"]
    results = mapped(tmp_path / "run.db", flow, inputs, client, errors="collect")
    assert [r.output for r in results] == ["A", None, "B"]
    error = results[1].error
    assert isinstance(error, JournalError) and isinstance(error, ExecutionError)
    assert re.search(r"args\[0\] is a Document.*identity= function", str(error))
    assert "secret" not in str(error)
    assert client.prompts == ["a", "b"]


def test_identity_of_the_map_and_of_the_engine(tmp_path: Path) -> None:
    """Either tells inputs apart; the one of the map goes first."""
    path = tmp_path / "run.db"

    async def main(client: Any, of_engine: Any, of_map: Any, *numbers: int) -> Any:
        inputs = [Document(n, "text") for n in numbers]
        async with Engine(
            {"m": client}, journal=path, identity=of_engine, progress=False
        ) as engine:
            return await engine.map(Flow(of_document), inputs, identity=of_map)

    def asked(*args: Any) -> int:
        client = echo()
        assert set(virtually(lambda: main(client, *args))) == {"TEXT!"}
        return len(client.requests)

    def number(document: Document) -> int:
        return document.number

    assert asked(number, None, 1, 2) == 4
    assert asked(None, number, 1, 2) == 0
    assert asked(lambda d: "wrong", number, 2, 3) == 2


@pytest.mark.parametrize("kind", ["run", "stream", "record"])
def test_identity_holds_for_every_way_to_run(tmp_path: Path, kind: str) -> None:
    """`run`, `record` and `stream` take the engine's, `stream` its own too."""
    path = tmp_path / "run.db"

    async def main(client: Any) -> Any:
        known: Any = {"identity": lambda d: d.number}
        of_engine: Any = {} if kind == "stream" else known
        document = Document(5, "text")
        async with Engine(
            {"m": client}, journal=path, progress=False, **of_engine
        ) as engine:
            flow = Flow(of_document)
            if kind == "run":
                return await engine.run(flow, document)
            if kind == "record":
                return (await engine.record(flow, document)).output
            return [r.output async for r in engine.stream(flow, [document], **known)][0]

    for requests in (2, 0):
        client = echo()
        assert virtually(lambda client=client: main(client)) == "TEXT!"
        assert len(client.requests) == requests


def test_an_identity_function_that_fails(tmp_path: Path) -> None:
    """It fails its input with a JournalError, and the cause; nothing is paid."""
    client = echo()
    message = "identity= function failed with ZeroDivisionError: division by zero. It"
    with pytest.raises(JournalError, match=message):
        ran(tmp_path / "a.db", Ask(), "x", client=client, identity=lambda x: 1 / 0)
    assert client.requests == []


# -- what cannot be kept ------------------------------------------------------------


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    """Close the stores of a test: an engine leaves what was handed in open."""
    yield
    while FullStore.made:
        FullStore.made.pop().close()


class FullStore(JournalStore):
    """A store whose disk is full after so many answers; each test closes its own."""

    made: ClassVar[list[JournalStore]] = []

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self.room = room
        self.made.append(self)

    def append(self, row: Row, response: str | None = None) -> bool:
        if len(self) >= self.room and row.key not in self._ids:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise self._lost(error)
        return super().append(row, response)


def test_nothing_goes_on_with_an_answer_that_was_not_kept(tmp_path: Path) -> None:
    """The run fails with the JournalError, and its next request does not leave."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 1)
    flow = Flow(lambda m, x: m.llm(m.llm(m.llm(x))))
    with pytest.raises(JournalError, match=r"disk is full.*Make room on the disk"):
        ran(store, flow, "a", client=client)
    assert len(client.requests) == 2
    store.close()
    assert texts(tmp_path / "run.db") == ["A"]
    more = echo()
    assert ran(tmp_path / "run.db", flow, "a", client=more) == "A"
    assert len(more.requests) == 2


def test_nothing_more_is_paid_once_an_answer_was_lost(tmp_path: Path) -> None:
    """Of a long map with a full disk, only what is in flight is lost."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 3)

    async def main() -> Any:
        async with Engine(
            {"m": client}, journal=store, max_inflight=4, progress=False
        ) as engine:
            inputs = [f"in {i}" for i in range(40)]
            return await engine.map(Ask(), inputs, errors="collect")

    results = virtually(main)
    assert sum(r.ok for r in results) == 3
    assert all(isinstance(r.error, JournalError) for r in results if not r.ok)
    assert "takes no more answers" in str(results[-1].error)
    assert len(client.requests) <= 3 + 4


def test_what_is_in_line_when_the_disk_is_full_does_not_leave(tmp_path: Path) -> None:
    """Only what is on the wire is lost; runs that wait for a slot fail unpaid."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 3)
    flow = Flow(lambda m, x: [m.llm(f"{x} {i}") for i in range(5)])

    async def main() -> Any:
        manager = limited(client, 2)
        async with Engine(manager, journal=store, progress=False) as engine:
            results = await engine.map(flow, range(20), errors="collect")
            assert [d.in_use for d in manager._deployments] == [0]
            return results, engine.statistics().total

    results, total = virtually(main)
    assert [r.ok for r in results] == [False] * 20
    assert all(isinstance(r.error, JournalError) for r in results)
    assert len(client.requests) <= 3 + 2
    assert total.tries == total.requests == len(client.requests)


def test_those_that_wait_for_a_lost_answer_fail_with_it(tmp_path: Path) -> None:
    """They do not pay for it one after the other."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 0)
    results = mapped(store, Ask(), ["a"] * 5, client, errors="collect")
    assert [isinstance(r.error, JournalError) for r in results] == [True] * 5
    assert len(client.requests) == 1


def test_nobody_goes_in_place_of_another_when_the_disk_is_full(tmp_path: Path) -> None:
    """A call fails after an answer was lost: those that follow it fail unpaid."""

    def answer(request: LLMRequest) -> Any:
        is_long = request.prompt == "long"
        return RequestRefusedError("no", status=400) if is_long else "yes"

    client = echo(lambda r: 5.0 if r.prompt == "long" else 1.0, answer)
    store: Any = FullStore(tmp_path / "run.db", 0)
    inputs = ["long", "short", "long", "long"]
    results = mapped(store, Ask(), inputs, client, errors="collect")
    kinds = [isinstance(r.error, JournalError) for r in results]
    assert kinds == [False, True, True, True]
    assert client.prompts == ["long", "short"]


def test_a_journal_that_is_read_only_is_refused_before_it_is_paid(
    tmp_path: Path,
) -> None:
    """What it has is given; what it has not is not asked for."""
    ran(tmp_path / "run.db", Ask(), "a", client=echo())
    store: Any = JournalStore(tmp_path / "run.db", read_only=True)
    client = echo()
    flow = [("a", "A"), ("b", None)]
    results = mapped(store, Ask(), [x for x, _ in flow], client, errors="collect")
    assert [r.output for r in results] == [y for _, y in flow]
    assert "open to read only" in str(results[1].error)
    assert client.requests == []
    store.close()


def test_a_damaged_answer_fails_its_input(tmp_path: Path) -> None:
    """It is neither believed nor asked for again in silence."""
    path = tmp_path / "run.db"
    mapped(path, Ask(), ["a", "b"], echo())
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE answers SET response = '{\"text\": 3}' WHERE id = 1")
    client = echo()
    results = mapped(path, Ask(), ["a", "b"], client, errors="collect")
    assert isinstance(results[0].error, JournalError)
    assert results[1].output == "B"
    assert client.requests == []


# -- cancelled ------------------------------------------------------------------------


class Stubborn:
    """A client that answers although it was cancelled."""

    def __init__(self) -> None:
        self.requests: list[LLMRequest] = []

    async def complete(self, request: LLMRequest) -> LLMResponse:
        self.requests.append(request)
        number = len(self.requests)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return LLMResponse(text=f"answer {number}")


def test_an_answer_that_came_after_the_cancellation_is_kept(tmp_path: Path) -> None:
    """It is paid; the next run has it."""
    path = tmp_path / "run.db"
    client = Stubborn()
    with pytest.raises(TimeoutError):
        ran(path, Ask(), "a", client=client, timeout=1.0)
    assert texts(path) == ["answer 1"]
    assert ran(path, Ask(), "a", client=client) == "answer 1"
    assert len(client.requests) == 1


def test_a_late_answer_wins_over_the_one_that_was_asked_meanwhile(
    tmp_path: Path,
) -> None:
    """Nothing goes on with an answer that the journal does not have."""
    path = tmp_path / "run.db"
    late = asyncio.Event()

    class Late(FunctionClient):
        async def complete(self, request: LLMRequest) -> LLMResponse:
            self._arrive(request)
            number = len(self.requests)
            if number == 1:
                while not late.is_set():
                    with suppress(asyncio.CancelledError):
                        await late.wait()
            else:
                late.set()
                await asyncio.sleep(1)
            return LLMResponse(text=f"answer {number}")

    client = Late(lambda r: "")

    async def main() -> Any:
        async with Engine({"m": client}, journal=path, progress=False) as engine:
            first = asyncio.create_task(engine.run(Ask(), "a"))
            await asyncio.sleep(1)
            first.cancel()
            await asyncio.sleep(1)
            output = await engine.run(Ask(), "a")
            await asyncio.wait([first])
            return output

    assert virtually(main) == "answer 1"
    assert len(client.requests) == 2
    assert texts(path) == ["answer 1"]


def test_a_cancelled_call_leaves_nothing_behind(tmp_path: Path) -> None:
    """An equal input that waited for it is asked in its place."""
    path = tmp_path / "run.db"
    client = echo(10.0)

    async def main() -> Any:
        async with Engine({"m": client}, journal=path, progress=False) as engine:
            one, two, three = (
                asyncio.create_task(engine.run(Ask(), "a")) for _ in range(3)
            )
            await asyncio.sleep(1)
            two.cancel()
            await asyncio.sleep(1)
            one.cancel()
            return await three

    assert virtually(main) == "A"
    assert client.arrivals == [0.0, 2.0]
    assert client.cancelled == 1
    assert texts(path) == ["A"]


def test_a_byte_that_was_changed_inside_an_answer_is_noticed(tmp_path: Path) -> None:
    """SQLite does not; an answer that was not given is never taken for one."""
    path = tmp_path / "run.db"
    with JournalStore(path) as store:
        store.append(Row(bytes(16), response='{"text":"answer"}'))
    path.write_bytes(path.read_bytes().replace(b'answer"}', b'anSwer"}'))
    with (
        JournalStore(path) as store,
        pytest.raises(JournalError, match="row 1 is not as it was written.*copy"),
    ):
        store.get(bytes(16))
