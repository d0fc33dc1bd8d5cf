"""`RunMemory`: what one run finds in the journal and the cache, and keeps there.

A call is known by its key: the path of its module, the request, the model, the input
of the run, and which of several equal calls it is. Equal calls arrive as their inputs
do, in any order; so of the answers that the journal has for them, a call takes that of
its own place in the program (`Places`), or else the first that nobody in this run has
taken. A program that was edited goes on finding its answers that way.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from inf_engine.errors import JournalError
from inf_engine.execution.memory import Memory
from inf_engine.execution.places import Places
from inf_engine.graph import GraphNode
from inf_engine.journal import (
    AnswerStore,
    CallNumbers,
    Row,
    cache_key,
    call_key,
    canonical_request,
    decode_response,
    identity_of,
)

Identity = Callable[..., Any]

_ATOMS = (str, int, float, bool, type(None))


class Kept(NamedTuple):
    """What the journal has for the call of an op: nothing yet, or its value."""

    row: Row
    found: bool
    value: Any = None


class RunMemory:
    """The memory as one run sees it.

    Args:
        memory: The engine's.
        args: The positional inputs of the run.
        kwargs: Its keyword inputs.
        identity: Gives what stands for the inputs, called with them; None for the
            content of the inputs themselves.

    Attributes:
        memory: The engine's.
        places: Where in the program each call stands.
    """

    __slots__ = (
        *("_args", "_equals", "_identity", "_input", "_kwargs", "_samples"),
        *("memory", "places"),
    )

    def __init__(
        self,
        memory: Memory,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        identity: Identity | None,
    ) -> None:
        self.memory = memory
        self.places = Places()
        self._args = args
        self._kwargs = kwargs
        self._identity = identity
        self._input: str | None = None
        self._equals: dict[bytes, _Equals] = {}
        self._samples = CallNumbers()

    def send(self, job: Any) -> None:
        """Answer a job from memory, or put it on the road.

        Raises:
            JournalError: If the input cannot be told from others, or a file is damaged.
        """
        memory = self.memory
        self._identify(job)
        journal, cache = memory.journal, memory.cache
        kept = None if journal is None else journal.get(job.row.key)
        if kept is not None:
            response = decode_response(kept)
            if cache is not None:
                cache.append(job.cache_row, kept)
            memory.give(job, response, "journal")
            return
        kept = None if cache is None else cache.get(job.cache_row.key)
        if kept is not None:
            response = decode_response(kept)
            if journal is not None:
                journal.append(job.row, kept)
            memory.give(job, response, "cache")
            return
        memory.check()
        if not memory.follow(job):
            memory.submit(job)

    def recall(
        self, node: GraphNode, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Kept:
        """Return what the journal has for the call of an op.

        Args:
            node: The call of an ``@op(journal=True)``.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Raises:
            JournalError: If its arguments or the input cannot be told from others, or
                the file is damaged.
        """
        return self._recall(node, node.target.fn, identity_of(args, kwargs))

    def recall_tool(self, node: GraphNode, fn: Any, arguments: str) -> Kept:
        """Return what the journal has for a call of a tool.

        Args:
            node: The model call that the tool belongs to.
            fn: The tool's function, an ``@op(journal=True)``.
            arguments: What the model has given it, as text.

        Raises:
            JournalError: As `recall`.
        """
        return self._recall(node, fn, arguments)

    def _recall(self, node: GraphNode, fn: Any, given: str) -> Kept:
        """Return what the journal has for a function and what it was given."""
        journal = self.memory.journal
        assert journal is not None
        row = self._row(journal, node, _name_of(fn), given)
        kept = journal.get(row.key)
        return Kept(row, False) if kept is None else Kept(row, True, json.loads(kept))

    def keep(self, node: GraphNode, row: Row, value: Any) -> None:
        """Commit the value of an op before it is used.

        Raises:
            JournalError: If it is no JSON value, or could not be kept.
        """
        journal = self.memory.journal
        assert journal is not None
        if not _is_json(value):
            raise JournalError(
                f"{node} gave a value of type {type(value).__name__} that holds more "
                "than JSON values, and @op(journal=True) keeps JSON values only: "
                "return str, numbers, bool, None, and lists and dicts of them, or "
                "leave journal out."
            )
        journal.append(row, json.dumps(value, ensure_ascii=True))
        journal.commit()

    def _identify(self, job: Any) -> None:
        """Give a job its keys; a client that was handed in is known by its alias."""
        memory = self.memory
        text, images = canonical_request(job.request), job.request.images
        model = memory.model_of(job.alias) or job.alias
        if memory.journal is not None:
            path, alias = job.node.path, job.alias
            row = self._row(memory.journal, job.node, path, text, "call", alias, model)
            job.row, job.key = replace(row, images=images) if images else row, row.key
        if memory.cache is not None:
            sample = self._samples.take("", text, model)
            key = job.key = cache_key(text, model, sample)
            job.cache_row = Row(
                key,
                kind="cached",
                path=job.origin,
                alias=job.alias,
                model=model,
                number=sample,
                request=text,
                images=images,
            )

    def _row(
        self,
        journal: AnswerStore,
        node: GraphNode,
        name: str,
        request: str,
        kind: str = "op",
        alias: str = "",
        model: str = "",
    ) -> Row:
        """Return the row of a call: that of the journal, or a new one."""
        input_id, place = self._input_id(), self.places.of(node)
        known = name, request, model, input_id
        first = call_key(*known, 0)
        equals = self._equals.get(first)
        if equals is None:
            equals = self._equals[first] = _Equals(journal, first)
        number, key = equals.take(place, lambda n: call_key(*known, n) if n else first)
        return Row(
            key,
            kind=kind,
            path=node.path,
            alias=alias,
            model=model,
            input=input_id,
            number=number,
            request=request,
            place=place,
            first=first if number else None,
        )

    def _input_id(self) -> str:
        if self._input is None:
            self._input = input_id(self._args, self._kwargs, self._identity)
        return self._input


def input_id(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], identity: Identity | None
) -> str:
    """Return what stands for the input of a run in the journal.

    Args:
        args: The positional inputs.
        kwargs: The keyword inputs.
        identity: As for `RunMemory`.

    Raises:
        JournalError: If the input cannot be told from others.
    """
    if identity is None:
        return identity_of(args, kwargs)
    try:
        named = identity(*args, **kwargs)
    except Exception as exc:
        raise JournalError(
            f"the identity= function failed with {type(exc).__name__}: {exc}. It "
            "is called with the inputs of the run, as forward is, and returns a "
            "text that tells them from others."
        ) from exc
    return identity_of((named,), {})


class _Equals:
    """The answers to equal calls of one input, as one run takes them.

    Args:
        journal: Where they are.
        first: The key of the first of these calls.
    """

    __slots__ = ("_known", "_left", "_next")

    def __init__(self, journal: AnswerStore, first: bytes) -> None:
        keys = journal.twins(first)
        one = len(keys) == 1
        self._left = [("" if one else journal.place(key), key) for key in keys]
        self._known = frozenset(keys)
        self._next = 0

    def take(self, place: str, key_of: Callable[[int], bytes]) -> tuple[int, bytes]:
        """Return the number and the key of a call.

        Args:
            place: Where it stands. The number is 0 if there is an answer for it.
            key_of: Gives the key of a number.
        """
        if self._left:
            places = [other for other, _ in self._left]
            at = places.index(place) if place in places else 0
            return 0, self._left.pop(at)[1]
        while True:
            number = self._next
            self._next += 1
            key = key_of(number)
            if key not in self._known:
                return number, key


def _name_of(fn: Any) -> str:
    """Return what tells the function of an op from others; no module path has an @."""
    module = getattr(fn, "__module__", "")
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return f"@{'' if module == '__main__' else module}:{name}"


def _is_json(value: Any) -> bool:
    """Say whether JSON gives a value back as it is."""
    todo = [value]
    while todo:
        here = todo.pop()
        kind = type(here)
        if kind is list:
            todo += here
        elif kind is dict:
            if any(type(key) is not str for key in here):
                return False
            todo += here.values()
        elif kind not in _ATOMS or (kind is float and not math.isfinite(here)):
            return False
    return True
