"""The journal at the far end: what a client is asked, and what the file then has."""

import asyncio
import json
import os
import random
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine import functional as F
from inf_engine.errors import (
    EndpointServerError,
    ExecutionError,
    JournalError,
    OutputParseError,
    RequestRefusedError,
)
from inf_engine.journal import JournalStore, Row
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest, LLMResponse, ToolCall


def ran(
    path: Path,
    module: InferenceModule,
    *args: Any,
    client: Any = None,
    clients: Any = None,
    **options: Any,
) -> Any:
    """Run a module once with a journal; return what it gives."""

    async def main() -> Any:
        given = clients or {"m": client}
        async with Engine(given, progress=False, journal=path, **options) as engine:
            return await engine.run(module, *args)

    return virtually(main)


def mapped(
    path: Path, module: InferenceModule, inputs: Any, client: Any, **options: Any
) -> Any:
    """Run a module over inputs with a journal; return the results."""

    async def main() -> Any:
        async with Engine({"m": client}, progress=False, journal=path) as engine:
            return await engine.map(module, inputs, **options)

    return virtually(main)


def rows(path: Path) -> list[Row]:
    """What is in a journal."""
    with JournalStore(path, read_only=True) as store:
        return list(store.rows())


def texts(path: Path) -> list[str]:
    """The texts of the answers in a journal."""
    return [json.loads(row.response).get("text", "") for row in rows(path)]


def shuffled(seed: int, answer: Callable[[LLMRequest], Any] | None = None) -> Any:
    """A client whose answers come in an order that the seed decides."""
    rng = random.Random(seed)
    return echo(lambda request: rng.uniform(0.1, 9.0), answer)


def numbered() -> Any:
    """A client whose answers are all different: a model with a temperature."""
    count = iter(range(10_000))
    return echo(1.0, lambda r: f"{r.prompt} {next(count)}")


# -- committed before it is used ---------------------------------------------------


def test_an_answer_is_in_the_file_before_the_next_request_leaves(
    tmp_path: Path,
) -> None:
    """A second program that looks into the file sees every answer given so far."""
    path = tmp_path / "run.db"
    seen: list[int] = []

    def answer(request: LLMRequest) -> str:
        with closing(sqlite3.connect(path)) as database:
            seen.extend(database.execute("SELECT count(*) FROM answers").fetchone())
        return request.prompt + "."

    flow = Flow(lambda m, x: m.llm(m.llm(m.llm(x))))
    assert ran(path, flow, "a", client=echo(1.0, answer)) == "a..."
    assert seen == [0, 1, 2]


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    """The same outputs, no request, no time."""
    path = tmp_path / "run.db"
    inputs = [f"in {i}" for i in range(20)]
    flow = Flow(lambda m, x: m.llm(f"{m.llm(x)} and {m.llm(x + '!')}"))
    first, second = shuffled(1), shuffled(2)
    outputs = mapped(path, flow, inputs, first)
    assert len(first.requests) == 60
    assert mapped(path, flow, inputs, second) == outputs
    assert second.requests == []
    assert len(rows(path)) == 60


def test_the_file_is_private_and_closed_with_the_engine(tmp_path: Path) -> None:
    """Mode 0600, and free for the next as soon as the engine is closed."""
    path = tmp_path / "run.db"

    async def main() -> None:
        engine = Engine({"m": echo()}, journal=path, progress=False)
        await engine.run(Ask(), "a")
        with pytest.raises(JournalError, match=f"in use by process {os.getpid()}"):
            JournalStore(path)
        await engine.aclose()

    virtually(main)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with JournalStore(path) as store:
        assert len(store) == 1


def test_a_synchronous_caller_keeps_a_journal_too(tmp_path: Path) -> None:
    """`run_sync` and `close`: the file is written on the private loop."""
    path = tmp_path / "run.db"
    for requests in (1, 0):
        client = echo(0.0)
        with Engine({"m": client}, journal=path, progress=False) as engine:
            assert engine.run_sync(Ask(), "a") == "A"
        assert len(client.requests) == requests


def test_a_store_that_was_handed_in(tmp_path: Path) -> None:
    """A `JournalStore` will do, with its own durability; it is closed in the end."""
    store = JournalStore(tmp_path / "run.db", durability="power")
    assert ran(store, Compare(), "a", "b", client=echo()) == "A+B"  # type: ignore[arg-type]
    assert len(rows(tmp_path / "run.db")) == 3
    with pytest.raises(JournalError, match="is closed"):
        store.get(bytes(16))


# -- what is asked again -----------------------------------------------------------


class Pair(InferenceModule):
    """Two calls, the second of which has a prompt that may be changed."""

    def __init__(self, style: str = "Be brief.") -> None:
        super().__init__()
        self.style = Parameter(style)
        self.first = LLMInference("m")
        self.second = LLMInference("m", system_prompt=self.style)

    def forward(self, text: str) -> Any:
        return f"{self.first(text)} {self.second(text)}"


def test_a_changed_parameter_asks_only_what_it_reaches(tmp_path: Path) -> None:
    """The call without the parameter is not asked again; going back asks nothing."""
    path = tmp_path / "run.db"
    asked = []
    for style in ("Be brief.", "Be long.", "Be brief."):
        client = echo()
        ran(path, Pair(style), "x", client=client)
        asked.append([r.system for r in client.requests])
    assert asked == [["", "Be brief."], ["Be long."], []]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.5),
        ("top_p", 0.5),
        ("max_tokens", 5),
        ("stop", "x"),
        ("seed", 1),
    ],
)
def test_a_changed_option_asks_again(tmp_path: Path, option: str, value: Any) -> None:
    """Sampling is part of the request."""
    path = tmp_path / "run.db"
    ran(path, Ask(), "a", client=echo())
    for requests in (1, 0):
        client = echo()
        ran(path, Ask(**{option: value}), "a", client=client)
        assert len(client.requests) == requests


def test_a_changed_prompt_input_or_place_asks_again(tmp_path: Path) -> None:
    """And nothing but what was changed."""
    path = tmp_path / "run.db"

    def asked(module: InferenceModule, *args: Any) -> list[str]:
        client = echo()
        ran(path, module, *args, client=client)
        return client.prompts

    def one(m: Any, x: Any, y: Any = None) -> str:
        return f"{m.llm('fixed')} {m.llm(f'about {x}')}"

    assert asked(Flow(one), "a") == ["fixed", "about a"]
    assert asked(Flow(one), "a") == []
    assert asked(Flow(one), "b") == ["fixed", "about b"]  # another input
    assert asked(Flow(one), "a", "y") == ["fixed", "about a"]  # one more argument
    changed = Flow(lambda m, x: f"{m.llm('fixed')} {m.llm(f'on {x}')}")
    assert asked(changed, "a") == ["on a"]  # another prompt
    moved = Flow(lambda m, x: f"{m.other('fixed')} {m.llm(f'about {x}')}", other="m")
    assert asked(moved, "a") == ["fixed"]  # another place
    assert asked(Flow(one), "a") == []


def test_another_alias_is_another_client(tmp_path: Path) -> None:
    """Clients that are handed in are told apart by their aliases."""
    path = tmp_path / "run.db"
    fast, smart = echo(1.0, lambda r: "fast"), echo(1.0, lambda r: "smart")
    clients = {"fast": fast, "smart": smart}
    assert ran(path, Ask("fast"), "a", clients=clients) == "fast"
    assert ran(path, Ask("smart"), "a", clients=clients) == "smart"


def test_a_new_input_in_the_middle(tmp_path: Path) -> None:
    """Neither the order nor the number of inputs matters."""
    path = tmp_path / "run.db"
    mapped(path, Ask(), ["a", "b", "c"], echo())
    client = echo()
    outputs = mapped(path, Ask(), ["c", "new", "b", "a"], client)
    assert outputs == ["C", "NEW", "B", "A"]
    assert client.prompts == ["new"]


# -- every kind of program ---------------------------------------------------------


@dataclass
class City:
    """A structured answer."""

    name: str
    people: int


def looked_up(name: str) -> str:
    """Look a name up."""
    return f"found {name}"


class Branching(InferenceModule):
    """A graph break, a loop of equal calls, and a caught failure."""

    def __init__(self) -> None:
        super().__init__()
        self.llm: Any = LLMInference("m")

    def forward(self, text: str) -> Any:
        found = [self.llm("same") for _ in range(3)]
        if self.llm(text).startswith("A"):
            return self.llm(f"{found[0]} {found[1]} {found[2]}")
        return self.llm(f"else {found}")


class Gathered(InferenceModule):
    """An async forward whose answers come in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.llm: Any = LLMInference("m")
        self.join: Any = LLMInference("m")

    async def part(self, text: str) -> str:
        return await self.llm(f"more of {await self.llm(text)}")

    async def forward(self, text: str) -> Any:
        parts = await asyncio.gather(*[self.part(f"{text}{i}") for i in range(4)])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.part(p)) for p in parts]
        return await self.join(" ".join(task.result() for task in tasks))


def structured(request: LLMRequest) -> Any:
    """Every second answer does not fit."""
    if len(request.messages) == 1:
        return "no JSON"
    return City("Rome", 3)


def tooling(request: LLMRequest) -> Any:
    """Call a tool twice, then answer."""
    said = [m.text for m in request.messages if m.role == "tool"]
    if len(said) < 2:
        call = ToolCall(f"c{len(said)}", "looked_up", {"name": str(len(said))})  # type: ignore[arg-type]
        return LLMResponse(tool_calls=(call,))
    return " and ".join(said)


def voted(m: Any, x: str) -> Any:
    """Five samples of one call."""
    return m.llm(F.vote([m.llm(x) for _ in range(5)]))


PROGRAMS: list[tuple[InferenceModule, Any, int]] = [
    (Branching(), None, 5),
    (Gathered(), None, 17),
    (Ask(response_format=City), structured, 2),
    (Ask(tools=[looked_up]), tooling, 3),
    (Flow(voted), None, 6),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("module", "answer", "calls"), PROGRAMS)
def test_whatever_the_program_a_second_run_asks_nothing(
    tmp_path: Path, module: InferenceModule, answer: Any, calls: int, seed: int
) -> None:
    """Breaks, loops, re-asks, tool turns, gather and TaskGroup, in any order."""
    path = tmp_path / "run.db"
    first, second = shuffled(seed, answer), shuffled(seed + 100, answer)
    output = ran(path, module, "abc", client=first)
    assert len(first.requests) == calls == len(rows(path))
    assert ran(path, module, "abc", client=second) == output
    assert second.requests == []
    assert (
        ran(tmp_path / "other.db", module, "abc", client=shuffled(7, answer)) == output
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    """However far it came: no answer is asked for twice."""
    path = tmp_path / "run.db"
    rng = random.Random(seed)
    answered = 0
    for _ in range(50):
        client = shuffled(rng.randrange(10**6))
        cut = rng.uniform(0.0, 12.0)
        output = None
        with suppress(TimeoutError):
            output = ran(path, Gathered(), "x", client=client, timeout=cut)
        answered += len(client.requests) - client.cancelled
        if output is not None:
            break
    assert output == ran(tmp_path / "whole.db", Gathered(), "x", client=echo())
    assert answered == len({row.key for row in rows(path)}) == 17


def test_samples_are_kept_apart(tmp_path: Path) -> None:
    """Equal calls in one input have numbers, and each keeps its own answer."""
    path = tmp_path / "run.db"
    flow = Flow(lambda m, x: [m.llm(x) for _ in range(4)])
    outputs = ran(path, flow, "a", client=numbered())
    assert sorted(outputs) == ["a 0", "a 1", "a 2", "a 3"]
    assert ran(path, flow, "a", client=echo()) == outputs
    assert sorted(row.number for row in rows(path)) == [0, 1, 2, 3]


def test_equal_inputs_of_one_map_are_one(tmp_path: Path) -> None:
    """They have one key, so one request; it is paid once, also on the way."""
    path = tmp_path / "run.db"
    client = numbered()
    assert (
        mapped(path, Ask(), ["a", "b", "a", "a"], client)
        == ["a 0", "b 1"] + ["a 0"] * 2
    )
    assert client.prompts == ["a", "b"]
    assert len(rows(path)) == 2


def test_failures_are_not_kept_and_retries_do_not_show(tmp_path: Path) -> None:
    """Only answers are in the file; what failed is asked again."""
    path = tmp_path / "run.db"
    outcomes = iter([EndpointServerError("no", status=500), "yes"])
    client = echo(1.0, lambda r: next(outcomes))
    assert ran(path, Ask(), "a", client=client) == "yes"
    assert len(client.requests) == 2
    assert texts(path) == ["yes"]
    refusing = echo(1.0, lambda r: RequestRefusedError("never", status=400))
    for _ in range(2):
        with pytest.raises(RequestRefusedError):
            ran(path, Ask(), "b", client=refusing)
    assert len(refusing.requests) == 2
    assert texts(path) == ["yes"]


def test_an_answer_that_does_not_parse_is_kept(tmp_path: Path) -> None:
    """It was paid for; asking for it again would not mend it."""
    path = tmp_path / "run.db"
    module = Ask(response_format=City, max_reasks=1)
    for requests in (2, 0):
        client = echo(1.0, lambda r: "no JSON")
        with pytest.raises(OutputParseError):
            ran(path, module, "a", client=client)
        assert len(client.requests) == requests


def table(**options: Any) -> dict[str, Any]:
    """An endpoint that a test puts its own client into."""
    address = {"provider": "openai-compatible", "base_url": "http://nowhere.test/v1"}
    return {**address, "model": "big", **options}


def test_an_answer_of_a_fallback_is_kept_for_the_alias(tmp_path: Path) -> None:
    """When the first is up again, nothing is asked: the key is the alias's own."""
    path = tmp_path / "run.db"
    resources = {
        "m": table(fallbacks=["spare"], retries=0),
        "spare": table(model="small"),
    }

    async def main(first: Any, spare: Any) -> Any:
        async with Engine(resources, journal=path, progress=False) as engine:
            routes = engine.resources._routes
            routes["m"].deployments[0].client = first
            routes["spare"].deployments[0].client = spare
            return await engine.run(Ask(), "a")

    down = echo(1.0, lambda r: EndpointServerError("down", status=500))
    spare, up = echo(1.0, lambda r: "spare"), echo(1.0, lambda r: "up")
    assert virtually(lambda: main(down, spare)) == "spare"
    (row,) = rows(path)
    assert (row.alias, row.model) == ("m", "big")
    assert virtually(lambda: main(up, up)) == "spare"
    assert up.requests == []


def test_streaming_from_the_journal(tmp_path: Path) -> None:
    """The same text, in one piece; it does not matter who wanted pieces at first."""
    path = tmp_path / "run.db"

    async def main(client: Any) -> list[str]:
        async with Engine({"m": client}, journal=path, progress=False) as engine:
            return [piece async for piece in engine.stream_tokens(Ask(), "a b c")]

    assert virtually(lambda: main(echo())) == ["A", " B", " C"]
    silent = echo()
    assert virtually(lambda: main(silent)) == ["A B C"]
    assert silent.requests == []
    assert ran(path, Ask(), "a b c", client=silent) == "A B C"
    assert silent.requests == []


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
        known = {"identity": lambda d: d.number}
        of_engine = {} if kind == "stream" else known
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
    with pytest.raises(JournalError, match="identity= function failed with ZeroDiv.*"):
        ran(tmp_path / "a.db", Ask(), "x", client=client, identity=lambda x: 1 / 0)
    assert client.requests == []


# -- what cannot be kept ------------------------------------------------------------


class FullStore(JournalStore):
    """A store whose disk is full after so many answers."""

    def __init__(self, path: Path, room: int) -> None:
        super().__init__(path)
        self.room = room

    def append(self, row: Row) -> bool:
        if len(self) >= self.room and row.key not in self._ids:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise self._lost(error)
        return super().append(row)


def test_nothing_goes_on_with_an_answer_that_was_not_kept(tmp_path: Path) -> None:
    """The run fails with the JournalError, and its next request does not leave."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 1)
    flow = Flow(lambda m, x: m.llm(m.llm(m.llm(x))))
    with pytest.raises(JournalError, match=r"disk is full.*Make room on the disk"):
        ran(store, flow, "a", client=client)
    assert len(client.requests) == 2
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


def test_those_that_wait_for_a_lost_answer_fail_with_it(tmp_path: Path) -> None:
    """They do not pay for it one after the other."""
    client = echo()
    store: Any = FullStore(tmp_path / "run.db", 0)
    results = mapped(store, Ask(), ["a"] * 5, client, errors="collect")
    assert [isinstance(r.error, JournalError) for r in results] == [True] * 5
    assert len(client.requests) == 1


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


def test_one_file_cannot_be_journal_and_cache(tmp_path: Path) -> None:
    """It says so, and lets go of the file."""
    path = tmp_path / "run.db"
    with pytest.raises(JournalError, match="is in use by"):
        Engine({"m": echo()}, journal=path, cache=path)
    JournalStore(path).close()
