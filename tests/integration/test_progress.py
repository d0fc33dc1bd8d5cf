"""`ProgressBar`: what a bar shows after the events of a run."""

import io
from typing import Any

import pytest
from rich.console import Console
from tests.integration.engine_helpers import Ask, Compare, echo, virtually

from inf_engine import Engine
from inf_engine.execution.progress import ProgressBar


def shown(total: int | None, body: Any, client: Any = None) -> str:
    """The last picture of a bar that observes a run."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=False, width=120)
    with ProgressBar(total, console) as bar:

        async def main() -> None:
            async with Engine({"m": client or echo()}, observers=[bar]) as engine:
                await body(engine)

        virtually(main)
    return screen.getvalue()


def test_a_bar_counts_inputs_calls_and_tokens() -> None:
    """Two inputs of three calls each."""
    text = shown(2, lambda e: e.map(Compare(), "ab", "cd"))
    assert "2/2" in text
    assert "0 in flight" in text
    assert "6/6" in text
    assert "12 tokens" in text


def test_a_bar_counts_failures_and_ends_with_nothing_in_flight() -> None:
    """Also the calls that were cancelled."""

    def answer(request: Any) -> Any:
        return ValueError("no") if request.prompt == "a" else "yes"

    client = echo(lambda r: 1.0 if r.prompt == "a" else 9.0, answer)
    body = lambda e: e.map(Compare(), "ab", "cd", errors="collect")  # noqa: E731
    text = shown(2, body, client)
    assert "1 failed" in text
    assert "0 in flight" in text.splitlines()[-1]


class Terminal(io.StringIO):
    """A stderr that says whether it is a terminal."""

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

    async def main() -> None:
        async with Engine({"m": echo()}, progress=wanted) as engine:
            await engine.map(Ask(), inputs)

    virtually(main)
    assert ("inputs" in screen.getvalue()) is seen


def test_the_total_is_the_shortest_length_or_unknown() -> None:
    """Iterators have none."""
    with ProgressBar.shown(True, ([1, 2, 3], [1, 2])) as (bar,):
        assert isinstance(bar, ProgressBar)
        assert bar._bar.tasks[0].total == 2
    with ProgressBar.shown(True, (iter([1]),)) as (bar,):
        assert isinstance(bar, ProgressBar)
        assert bar._bar.tasks[0].total is None
