"""The keys that a program asks for: what they depend on, and what they do not."""

import asyncio
import os
import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.module_trees import Plan, answer, build, plans

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine import functional as F
from inf_engine.errors import ExecutionError
from inf_engine.journal import JournalStore, Row
from inf_engine.testing import FunctionClient, VirtualTimeLoop

PLACES = ("one", "two", "three")
MODES = ("sync", "map", "break", "gather", "group", "one by one")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder without a disk, if there is one: hundreds of journals are flushed here."""


@dataclass(frozen=True)
class Program:
    """A small program: parameters, sampling, and calls that wait for nothing.

    Args:
        styles: The system prompt of each place.
        temperatures: The temperature of each place.
        calls: Place and prompt of each call.
        value: The input; no prompt has it.
    """

    styles: tuple[str, ...]
    temperatures: tuple[float | None, ...]
    calls: tuple[tuple[int, str], ...]
    value: Any

    def described(self) -> set[Any]:
        """What the calls are, by hand: one element for each key."""
        counts: Counter[Any] = Counter()
        found = set()
        for place, prompt in self.calls:
            settings_of = self.styles[place], self.temperatures[place]
            call = (place, prompt, settings_of, repr(self.value))
            found.add((*call, counts[call]))
            counts[call] += 1
        return found


def programs() -> st.SearchStrategy[Program]:
    """Programs that are alike, so that two of them share some of their calls."""
    text = st.sampled_from(["a", "b", "c"])
    call = st.tuples(st.integers(0, 2), text)
    value = st.sampled_from([0, 1, "1", True, None, [1], {"a": 1}, {"a": [1]}])
    return st.builds(
        Program,
        st.tuples(text, text, text),
        st.tuples(*[st.sampled_from([None, 0.0, 1.0])] * 3),
        st.lists(call, max_size=6).map(tuple),
        value,
    )


class Small(InferenceModule):
    """A program as a module; the mode says how the calls are made."""

    def __init__(self, program: Program, mode: str) -> None:
        super().__init__()
        self.calls = program.calls
        self.mode = mode
        pairs = zip(program.styles, program.temperatures, strict=True)
        for name, (style, temperature) in zip(PLACES, pairs, strict=True):
            llm: Any = LLMInference("a", Parameter(style), temperature=temperature)
            setattr(self, name, llm)

    def each(self) -> list[Any]:
        """Make the calls."""
        return [getattr(self, PLACES[place])(prompt) for place, prompt in self.calls]

    def forward(self, value: Any) -> Any:
        if self.mode == "map":
            return F.map(lambda c: getattr(self, PLACES[c[0]])(c[1]), list(self.calls))
        found = self.each()
        return [str(p) for p in found] if self.mode == "break" else found


class AsyncSmall(Small):
    """The same with an async forward."""

    async def forward(self, value: Any) -> Any:
        if self.mode == "gather":
            return await asyncio.gather(*self.each())
        if self.mode == "one by one":
            return [await call for call in self.each()]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(call)) for call in self.calls]
        return [task.result() for task in tasks]

    async def _one(self, call: tuple[int, str]) -> Any:
        return await getattr(self, PLACES[call[0]])(call[1])


def module_of(program: Program, mode: str) -> Small:
    """The module of a program in a mode."""
    kind = Small if mode in ("sync", "map", "break") else AsyncSmall
    return kind(program, mode)


def client_of(seed: int) -> FunctionClient:
    """A client whose answers come in an order that the seed decides."""
    rng = random.Random(seed)
    return FunctionClient(answer, lambda request: rng.uniform(0.1, 9.0))


def journaled(
    module: InferenceModule, value: Any, *seeds: int
) -> tuple[list[Row], list[int]]:
    """Run a module once for each seed, with one journal.

    Returns:
        What is in the journal then, and how many requests each run sent.
    """
    asked = []
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, "run.db")
        for seed in seeds:
            clients = {"a": client_of(seed), "b": client_of(seed + 1)}

            async def main(clients: Any = clients) -> None:
                async with Engine(clients, journal=path, progress=False) as engine:
                    await engine.run(module, value)

            VirtualTimeLoop.run(main())
            asked.append(sum(len(client.requests) for client in clients.values()))
        with JournalStore(path) as store:
            return list(store.rows()), asked


def keys_of(program: Program, mode: str, seed: int) -> set[bytes]:
    """The keys that a program asks for."""
    rows, asked = journaled(module_of(program, mode), program.value, seed)
    keys = {row.key for row in rows}
    assert len(keys) == len(rows) == asked[0] == len(program.calls)
    return keys


SEED = st.integers(0, 10**6)
MODE = st.sampled_from(MODES)


@settings(max_examples=60)
@given(programs(), programs(), MODE, MODE, SEED)
def test_keys_change_when_and_only_when_the_calls_do(
    one: Program, other: Program, mode: str, other_mode: str, seed: int
) -> None:
    """Two programs share the keys of just those calls that they share.

    Neither how a call is made nor when it is answered matters.
    """
    shared = one.described() & other.described()
    keys, others = keys_of(one, mode, seed), keys_of(other, other_mode, seed + 1)
    assert len(keys & others) == len(shared)


@settings(max_examples=30)
@given(programs(), MODE, MODE, SEED)
def test_the_order_of_calls_and_answers_does_not_matter(
    program: Program, mode: str, other_mode: str, seed: int
) -> None:
    """The same calls in another order, made in another way: the same keys."""
    calls = random.Random(seed).sample(program.calls, len(program.calls))
    turned = Program(program.styles, program.temperatures, tuple(calls), program.value)
    assert keys_of(program, mode, seed) == keys_of(turned, other_mode, seed + 1)


@settings(max_examples=40)
@given(plans(), SEED)
def test_any_tree_asks_nothing_the_second_time(plan: Plan, seed: int) -> None:
    """Breaks, branches, loops, ops, shared modules: whatever the order of answers."""
    module = build(plan)
    try:
        rows, asked = journaled(module, "start", seed, seed + 10)
    except ExecutionError:
        return  # a program that fails by itself
    assert asked == [len(rows), 0]
    others, _ = journaled(build(plan), "start", seed + 20)
    assert {row.key for row in others} == {row.key for row in rows}
    changed, _ = journaled(build(plan), "another start", seed)
    assert not {row.key for row in changed} & {row.key for row in rows}
