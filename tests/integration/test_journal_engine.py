"""The journal at the far end: what a client is asked, and what the file then has."""

import asyncio
import json
import os
import random
import sqlite3
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, virtually
from tests.integration.journal_helpers import (
    mapped,
    numbered,
    ran,
    rows,
    shuffled,
    texts,
)

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine import functional as F
from inf_engine.errors import (
    EndpointServerError,
    JournalError,
    OutputParseError,
    RequestRefusedError,
)
from inf_engine.journal import JournalStore
from inf_engine.types import LLMRequest, LLMResponse, ToolCall

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
    """A `JournalStore` will do, with its own durability; it stays its owner's."""
    store = JournalStore(tmp_path / "run.db", durability="power")
    assert ran(store, Compare(), "a", "b", client=echo()) == "A+B"
    assert len(rows(tmp_path / "run.db")) == 3
    assert store.get(bytes(16)) is None
    store.close()


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
        call = ToolCall(
            f"c{len(said)}", "looked_up", json.dumps({"name": str(len(said))})
        )
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


class Parts(InferenceModule):
    """Parts whose second calls are equal, and whose third calls are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = LLMInference("m")
        self.same: Any = LLMInference("m")
        self.last: Any = LLMInference("m")

    async def part(self, number: int) -> str:
        await self.first(f"part {number}")
        return await self.last(f"{number} of {await self.same('equal')}")

    async def forward(self, text: str) -> Any:
        return await asyncio.gather(*[self.part(i) for i in range(6)])


def test_equal_calls_of_parts_that_overtake_each_other(tmp_path: Path) -> None:
    """A second run asks nothing, though answers of a temperature are all different."""
    path = tmp_path / "run.db"
    count = iter(range(1000))
    first = shuffled(3, lambda r: f"sample {next(count)}")
    output = ran(path, Parts(), "a", client=first)
    second = shuffled(4, lambda r: f"sample {next(count)}")
    assert ran(path, Parts(), "a", client=second) == output
    assert second.requests == []


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
