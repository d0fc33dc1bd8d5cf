"""A tool that is an ``@op(journal=True)`` is called once for all resumed runs."""

from pathlib import Path
from typing import Any

import pytest
from tests.integration.journal_helpers import ran, rows

from inf_engine import LLMInference, LLMResponse, op
from inf_engine.errors import ExecutionError, JournalError
from inf_engine.testing import ScriptedClient
from inf_engine.types import ToolCall


def booking(calls: list[str], kind: str, **options: Any) -> Any:
    """Return a tool that counts its calls."""

    def book(city: str) -> dict[str, int]:
        """Book a room."""
        calls.append(city)
        return {"number": len(calls)}

    async def book_later(city: str) -> dict[str, int]:
        """Book a room."""
        return book(city)

    return op(**options)(book_later if kind == "async" else book)


def agent(tool: Any, *cities: str, then: Any = "done") -> ScriptedClient:
    """Return a client that calls the tool for each city, and then answers."""
    named = [
        ToolCall(str(n), tool.name, f'{{"city": "{c}"}}') for n, c in enumerate(cities)
    ]
    return ScriptedClient([LLMResponse(tool_calls=tuple(named)), then])


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_journaled_tool_is_called_once(tmp_path: Path, kind: str) -> None:
    """Its result is there before the model is asked again, even if that fails."""
    path, calls = tmp_path / "run.db", list[str]()
    tool = booking(calls, kind, journal=True)
    module = LLMInference("m", tools=[tool])
    broken = agent(tool, "Rome", then=ValueError("the line is dead"))
    with pytest.raises(ExecutionError, match="the line is dead"):
        ran(path, module, "a", client=broken)
    assert [row.kind for row in rows(path)] == ["call", "op"]
    client = ScriptedClient(["done"])
    assert ran(path, module, "a", client=client) == "done"
    assert calls == ["Rome"]
    said = [m.text for m in client.requests[0].messages if m.role == "tool"]
    assert said == ['{"number": 1}']


def test_equal_calls_of_a_tool_are_two(tmp_path: Path) -> None:
    """Each has a result of its own, in the order of the calls, and keeps it."""
    path, calls = tmp_path / "run.db", list[str]()
    tool = booking(calls, "async", journal=True)
    module = LLMInference("m", tools=[tool])
    for _ in range(2):
        assert ran(path, module, "a", client=agent(tool, "Rome", "Rome")) == "done"
    assert calls == ["Rome", "Rome"]
    kept = [row.response for row in rows(path) if row.kind == "op"]
    assert kept == [r'"{\"number\": 1}"', r'"{\"number\": 2}"']
    ran(path, module, "another input", client=agent(tool, "Rome"))
    assert len(calls) == 3


def test_other_tools_run_again(tmp_path: Path) -> None:
    """The model's turns come from the journal, what a plain tool does does not."""
    calls = list[str]()
    tool = booking(calls, "sync")
    module = LLMInference("m", tools=[tool])
    for client in (agent(tool, "Rome"), ScriptedClient(["done"])):
        ran(tmp_path / "run.db", module, "a", client=client)
    assert calls == ["Rome", "Rome"]


def test_a_result_that_is_not_kept_is_no_matter_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that fails ends the run: the model is not told, and not asked."""
    tool = booking([], "sync", journal=True)
    client = agent(tool, "Rome")

    def full(*_: Any) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr("inf_engine.execution.recall.RunMemory.keep", full)
    with pytest.raises(JournalError, match="the disk is full"):
        ran(tmp_path / "run.db", LLMInference("m", tools=[tool]), "a", client=client)
    assert len(client.requests) == 1
