"""`ProgressDisplay`: what somebody in front of a terminal sees, and when."""

import asyncio
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.integration.engine_helpers import Ask, Compare, Flow, echo, virtually
from tests.integration.limit_helpers import endpoint, reached

from inf_engine import Budget, Engine
from inf_engine.execution.progress import (
    AliasRow,
    InputsRow,
    Picture,
    drawn,
    time_left,
)
from inf_engine.execution.scheduler import Scheduler
from inf_engine.resources.statistics import Statistics
from inf_engine.testing import LoopbackServer

PRICE = {"input": 0.0, "output": 1e6}  # a USD for each token written


def text_of(picture: Picture, width: int = 120, encoding: str = "utf-8") -> list[str]:
    """The lines of a picture, as a file gets them."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(
        file=screen, force_terminal=False, width=width, legacy_windows=False
    )
    console.print(drawn(picture))
    screen.seek(0)
    return [line.rstrip() for line in screen.read().splitlines()]


def cells(lines: list[str], name: str) -> list[str]:
    """The cells of a row."""
    (line,) = [line for line in lines if line.strip().startswith(name)]
    return re.split(r"\s{2,}", line.strip())


def watched(
    resources: Any,
    body: Callable[[Engine], Any],
    looks: dict[float, str] | None = None,
    **options: Any,
) -> list[str]:
    """Run `body(engine)` on a virtual clock, with a display.

    Args:
        resources: The engine's.
        body: What runs.
        looks: The times at which to look; what was there then is put in.
        **options: The engine's.

    Returns:
        The lines of the last picture.
    """
    screen = io.StringIO()

    async def main() -> None:
        async with Engine(resources, progress=True, **options) as engine:
            engine._progress._console = Console(file=screen, width=120)
            loop = asyncio.get_running_loop()

            def look(at: float) -> None:
                picture = engine._progress._picture
                assert looks is not None
                looks[at] = "\n".join(text_of(picture))

            for at in looks or ():
                loop.call_at(at, look, at)
            await body(engine)

    virtually(main)
    return screen.getvalue().splitlines()


# -- the figures --------------------------------------------------------------------


def test_inputs_and_calls_and_tokens_and_money() -> None:
    """Two inputs of three calls, at the far end of a server with a price."""
    server = LoopbackServer("a b c")
    manager = reached({"m": endpoint(price=PRICE)}, one=server)
    lines = watched(manager, lambda e: e.map(Compare(), "ab", "cd"))
    assert server.count == 6
    tokens = f"{sum(len(p.split()) for p in ('a', 'b', 'c', 'd')) + 2 * 5 + 6 * 3}"
    head = ["done", "in flight", "waiting", "tokens", "cost"]
    assert cells(lines, "done") == head
    assert cells(lines, "inputs") == ["inputs", "2/2", "0", "0", tokens, "$18.0000"]
    assert cells(lines, "m") == ["m", "6", "0", "0", tokens, "$18.0000"]
    assert "100%" in lines[0]


def test_what_is_in_flight_and_what_waits() -> None:
    """Two slots, five inputs of one call, 2 s each: a look after 1 s and after 3 s."""
    server = LoopbackServer("a", latency=2.0)
    manager = reached({"m": endpoint(max_concurrent=2)}, one=server)
    looks = {1.1: "", 3.1: ""}
    watched(manager, lambda e: e.map(Ask(), "abcde"), looks, max_inflight=4)
    first, second = [look.splitlines() for look in looks.values()]
    assert cells(first, "inputs")[1:4] == ["0/5", "4", "1"]
    assert cells(first, "m") == ["m", "0", "2", "2", "0", "$0", "a free slot"]
    assert cells(second, "inputs")[1:4] == ["2/5", "3", "0"]
    assert cells(second, "m") == ["m", "2", "2", "1", "4", "?", "a free slot"]
    assert re.search(r" 40%  0:03  ETA 0:04$", second[0])


def test_a_rate_limit_is_named_and_counted_down() -> None:
    """12 requests a minute: the second leaves after 5 s, the third after 10 s."""
    manager = reached({"m": endpoint(requests_per_minute=12)}, one=LoopbackServer())
    looks = {1.1: "", 3.1: "", 4.6: "", 6.1: ""}
    watched(manager, lambda e: e.map(Ask(), "abc"), looks)
    waits = [cells(look.splitlines(), "m")[-1] for look in looks.values()]
    assert waits == [
        *(
            "requests/min, 4 s",
            "requests/min, 2 s",
            "requests/min",
            "requests/min, 4 s",
        ),
    ]
    assert cells(looks[1.1].splitlines(), "m")[1:4] == ["1", "0", "2"]


def test_a_limit_of_tokens_is_named() -> None:
    """A request that was booked with 100 tokens holds the next for a minute."""
    module = Ask(max_tokens=100)
    server = LoopbackServer("a", latency=3.0)
    manager = reached({"m": endpoint(tokens_per_minute=60)}, one=server)
    looks = {2.1: ""}
    watched(manager, lambda e: e.map(module, "ab"), looks)
    assert "tokens/min, 9" in looks[2.1] or "tokens/min, 1 min" in looks[2.1]


def test_a_refusal_that_names_a_time_is_counted_down() -> None:
    """A 429 with Retry-After pauses the endpoint: it says so, and how often it was."""
    server = LoopbackServer("a", requests_per_minute=6, burst=1, headers=False)
    manager = reached({"m": endpoint(max_concurrent=1)}, one=server)
    looks = {3.1: ""}
    lines = watched(manager, lambda e: e.map(Ask(), "ab"), looks)
    row = cells(looks[3.1].splitlines(), "m")
    assert row[1:5] == ["1", "0", "1", "1"]
    assert re.fullmatch(r"the end of a 429, \d s", row[-1])
    assert cells(lines, "m")[1:5] == ["2", "0", "0", "1"]


def test_a_retry_is_counted_down() -> None:
    """After a 500 the request pauses by itself, in no line."""
    server = LoopbackServer("a", errors=[500])
    manager = reached({"m": endpoint()}, one=server)
    manager._random.random = lambda: 0.999
    looks = {0.3: ""}
    watched(manager, lambda e: e.map(Ask(), "a"), looks)
    assert cells(looks[0.3].splitlines(), "m")[2:5] == ["0", "1", "1"]
    assert cells(looks[0.3].splitlines(), "m")[-1] == "a retry, 1 s"


def test_an_endpoint_that_is_down_is_told() -> None:
    """Five failures in a row open the breaker; the rest waits for its probe."""
    server = LoopbackServer("a", errors=[500] * 5)
    manager = reached({"m": endpoint(max_concurrent=5, retries=0)}, one=server)
    looks = {0.3: ""}
    body = lambda e: e.map(Ask(), "abcdefg", errors="collect")  # noqa: E731
    lines = watched(manager, body, looks)
    assert cells(looks[0.3].splitlines(), "m")[-1] == "a dead endpoint, 1 s"
    assert cells(lines, "inputs")[1:5] == ["7/7", "0", "0", "5"]


def test_a_budget_that_holds_back_is_told() -> None:
    """One request in flight has reserved what the next would need."""
    server = LoopbackServer("a", latency=2.0)
    manager = reached({"m": endpoint(price=PRICE)}, one=server)
    looks = {1.1: ""}
    budget = Budget(usd=60.0)
    module = Ask(max_tokens=50)
    watched(manager, lambda e: e.map(module, "ab"), looks, budget=budget)
    assert cells(looks[1.1].splitlines(), "m")[-1] == "the budget"


def test_failures_are_counted_and_cancelled_inputs_are_not() -> None:
    """One of two fails and ends the map; the other neither failed nor is done."""

    def answer(request: Any) -> Any:
        return ValueError("no") if request.prompt == "a" else "yes"

    async def body(engine: Engine) -> None:
        with pytest.raises(Exception, match="no"):
            await engine.map(Ask(), "ab")

    client = echo(lambda r: 1.0 if r.prompt == "a" else 9.0, answer)
    lines = watched({"m": client}, body)
    assert cells(lines, "inputs")[1:5] == ["1/2", "0", "1", "1"]
    assert cells(lines, "m")[1:5] == ["0", "0", "0", "2"]


def test_answers_from_the_journal_are_reused_and_free(tmp_path: Path) -> None:
    """They are done, cost nothing, and have a column of their own."""
    for expected in (["m", "2", "0", "0", "4", "$2.0000"], ["m", *"2002", "0", "$0"]):
        manager = reached({"m": endpoint(price=PRICE)}, one=LoopbackServer("a"))
        journal = tmp_path / "run.db"
        lines = watched(manager, lambda e: e.map(Ask(), "ab"), journal=journal)
        assert cells(lines, "m") == expected
        assert ("reused" in " ".join(lines)) is (expected[4] == "2")


def test_figures_count_from_the_beginning_of_the_display() -> None:
    """What the engine did before is in its statistics, not here."""

    async def body(engine: Engine) -> None:
        await engine.run(Ask(), "before")
        await engine.map(Ask(), "ab")

    lines = watched({"m": echo()}, body)
    assert cells(lines, "m")[1] == "2"


def test_batches_at_the_same_time_share_one_display() -> None:
    """A bar and a row for each, one row for the alias; the last one ends it."""

    async def body(engine: Engine) -> None:
        await asyncio.gather(engine.map(Ask(), "abc"), engine.map(Ask(), "abcdefg"))

    looks = {0.6: ""}
    lines = watched({"m": echo(lambda r: 1.0 + (r.prompt > "c"))}, body, looks)
    shown = looks[0.6]
    assert len(re.findall("inputs", shown)) == 2
    assert "0/3" in shown
    assert cells(shown.splitlines(), "m")[1:4] == ["0", "10", "0"]
    assert len([line for line in lines if "inputs" in line]) == 1
    assert "7/7" in "\n".join(lines)


# -- how it looks -------------------------------------------------------------------


def picture(aliases: int = 1, **row: Any) -> Picture:
    """A picture of a batch that goes on."""
    facts: dict[str, Any] = {"name": "careful-model", "in_flight": 8, "waiting": 1031}
    spent = Statistics(
        requests=11_204, failures=3, input_tokens=12_345_678, cost=12.3, unpriced=1
    )
    rows = [
        AliasRow(spent=spent, waits="requests/min, 12 s", **{**facts, **row})
        for _ in range(aliases)
    ]
    return Picture((InputsRow(37, 1, 40, 200, 3723.0, 65.0),), tuple(rows))


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_it_fits_the_terminal(width: int) -> None:
    """No line is longer, none is broken, and no figure is cut at 80 columns."""
    lines = text_of(picture(name="a-very-long-alias-of-somebody-who-likes-them"), width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    if width >= 80:
        for figure in ("11,204", "1,031", "12,345,678", "$12.3000+", "37/200"):
            assert figure in " ".join(lines)
    if width >= 120:
        assert "requests/min, 12 s" in lines[3]
        assert lines[0].endswith("18%  1:02:03  ETA 1:05")


def test_many_aliases_are_cut() -> None:
    """Twelve rows, and how many there are besides."""
    lines = text_of(picture(aliases=40))
    assert len(lines) == 3 + 12 + 1
    assert lines[-1] == "  and 28 more aliases"


def test_an_alias_is_no_markup() -> None:
    """Whatever it is called."""
    assert "[red]x[/red]" in "\n".join(text_of(picture(name="[red]x[/red]")))


def test_a_terminal_without_unicode_gets_what_it_can_show() -> None:
    """Plain dashes."""
    lines = text_of(picture(), 100, "ascii")
    assert "-----" in lines[0]


def test_an_empty_picture_is_one() -> None:
    """Nothing to show is no mistake."""
    assert text_of(Picture()) == [""]


@pytest.mark.parametrize(
    ("seen", "total", "left"),
    [
        ([(0.0, 0), (10.0, 5)], 20, 30.0),
        ([(5.0, 100), (10.0, 105)], 110, 5.0),
        ([(0.0, 0), (10.0, 0)], 20, None),
        ([(0.0, 0), (10.0, 20)], 20, 0.0),
        ([(0.0, 0), (0.0, 0)], 0, 0.0),
    ],
)
def test_the_rest_takes_as_long_as_the_recent_speed_says(
    seen: list[tuple[float, int]], total: int, left: float | None
) -> None:
    """What a journal answered at once a while ago tells nothing of the rest."""
    assert time_left(seen, total) == left


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    """1,000 inputs at once from the journal, then one in 5 s: 20 left take 100 s."""
    instant = {str(n) for n in range(1000)}
    client = echo(lambda r: 0.0 if r.prompt in instant else 5.0)
    module = Flow(lambda m, x: m.llm(x))
    inputs = [str(n) for n in range(1040)]
    looks = {102.1: ""}
    watched({"m": client}, lambda e: e.map(module, inputs), looks, max_inflight=1)
    assert "ETA 1:40" in looks[102.1]


# -- where it is shown --------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self.yes = yes

    def isatty(self) -> bool:
        return self.yes


@pytest.mark.parametrize(
    ("wanted", "terminal", "inputs", "seen"),
    [
        (None, True, "ab", True),
        (None, True, "a", False),
        (None, False, "ab", False),
        (True, False, "a", True),
        (False, True, "ab", False),
    ],
)
def test_a_bar_is_shown_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
    wanted: bool | None,
    terminal: bool,
    inputs: str,
    seen: bool,
) -> None:
    """None: on a terminal, for more than one input."""
    screen = Terminal(terminal)
    monkeypatch.setattr("sys.stderr", screen)
    run_with(wanted, inputs)
    assert ("inputs" in screen.getvalue()) is seen


def run_with(wanted: bool | None, inputs: Any, module: Any = None) -> None:
    """A map, shown or not."""

    async def main() -> None:
        async with Engine({"m": echo()}, progress=wanted) as engine:
            await engine.map(module or Ask(), inputs)

    virtually(main)


def test_what_is_no_terminal_gets_the_last_picture_without_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log file stays a text: a bar, a head, a row for the inputs and the alias."""
    screen = Terminal(False)
    monkeypatch.setattr("sys.stderr", screen)
    run_with(True, "ab")
    assert "\x1b" not in screen.getvalue()
    assert "\r" not in screen.getvalue()
    assert len(screen.getvalue().splitlines()) == 4


@pytest.mark.parametrize("terminal", [True, False])
def test_prints_stay_on_their_own_stream(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Standard output that goes to a file is never drawn on the terminal instead."""
    screen, out = Terminal(True), Terminal(terminal)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")

    def printing(module: Any, text: Any) -> Any:
        print(f"seen {text}")  # noqa: T201
        return module.llm(text)

    run_with(None, "ab", Flow(printing))
    assert ("seen a\nseen b\n" == out.getvalue()) is not terminal
    assert ("seen a" in screen.getvalue()) is terminal
    assert sys.stdout is out
    assert sys.stderr is screen


class Broken(Terminal):
    """A terminal that went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("screen", [None, Broken(True), Broken(False)])
def test_a_stderr_that_is_gone_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch, screen: Any
) -> None:
    """The map goes on without a display."""
    monkeypatch.setattr("sys.stderr", screen)
    run_with(None, "ab")
    run_with(True, "ab")


def test_a_stderr_that_knows_few_signs_hurts_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it does not know becomes a question mark."""
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")

    async def main() -> None:
        name = "an-alias-of-many-letters-\N{SNOWMAN}"
        async with Engine({name: echo()}, progress=True) as engine:
            await engine.map(Ask(name), "ab")

    virtually(main)
    assert b"inputs" in raw.getvalue()
    assert b"?" in raw.getvalue()


def test_a_closed_stderr_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking it whether it is a terminal raises."""
    screen = io.StringIO()
    screen.close()
    monkeypatch.setattr("sys.stderr", screen)
    run_with(None, "ab")
    run_with(True, "ab")


def test_the_total_is_the_shortest_length_or_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Iterators have none: what is done is counted, nothing is promised."""

    def endless() -> Iterator[str]:
        yield from "abc"

    monkeypatch.setattr("sys.stderr", Terminal(False))
    for inputs, done in ((["a", "b"], "2/2"), (endless(), "3")):
        screen = Terminal(False)
        monkeypatch.setattr("sys.stderr", screen)
        run_with(True, inputs)
        lines = screen.getvalue().splitlines()
        assert cells(lines, "inputs")[1] == done
        assert ("%" in lines[0]) is ("/" in done)


def test_nobody_is_told_of_events_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a display and without observers a run makes no events at all."""
    monkeypatch.setattr("sys.stderr", Terminal(False))
    tellers: list[Any] = []
    teller = Scheduler._teller

    def noted(self: Scheduler, listeners: Any) -> Any:
        tellers.append(teller(self, listeners))
        return tellers[-1]

    monkeypatch.setattr(Scheduler, "_teller", noted)
    run_with(True, "ab")
    assert tellers == [None, None]


def test_a_left_stream_takes_its_display_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer of it stays on the loop."""
    monkeypatch.setattr("sys.stderr", Terminal(False))

    async def main() -> None:
        async with Engine({"m": echo()}, progress=True) as engine:
            results = engine.stream(Ask(), "abcdef")
            async for _ in results:
                break
            await results.aclose()
            display = engine._progress
            assert display._screen is None
            assert not display._batches
            assert display._timer is not None
            assert display._timer.cancelled()

    virtually(main)
