"""A tool: a plain typed function that a model may call.

The signature is the schema, the docstring the description: what stands before the
first section describes the tool, a Google-style ``Args`` section its arguments. What
the schema cannot say honestly (``*args``, an argument without a type, a default that
is no JSON) is refused, with the fix. The signature is looked at when the tool is made,
the types at the first use of `Tool.spec` or `Tool.call`, because that needs pydantic.
"""

import asyncio
import functools
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from inf_engine.errors import SchemaError, ToolArgumentError
from inf_engine.schema import MisfitError, Validator, jsonable, object_type
from inf_engine.types import ToolSpec

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|"
    r"Attributes|See Also|References|Warnings?|Warns|Todo):\s*"
)
_ARGS = ("Args", "Arguments", "Parameters")
_ENTRY = re.compile(r"\**(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")
_KINDS = {
    inspect.Parameter.VAR_POSITIONAL: "takes any number of values",
    inspect.Parameter.VAR_KEYWORD: "takes any names",
    inspect.Parameter.POSITIONAL_ONLY: "cannot be passed by name",
}


class Tool:
    """A function that a model may call. Made with `Tool.of`.

    Attributes:
        fn: The function.
        name: Its name.
        description: What its docstring says before the first section.
        is_journaled: Whether it is an ``@op(journal=True)``: a run that is resumed
            takes its result from the journal.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.name = _name_of(fn)
        self.is_journaled = getattr(fn, "journal", False) is True
        self._parameters = _parameters_of(fn, self.name)
        self.description, self._documented = _docs_of(fn)

    @classmethod
    def of(cls, fn: "Callable[..., Any] | Tool") -> "Tool":
        """Return the tool of a function; a tool is returned as is.

        Args:
            fn: A function or bound method, sync or async, with typed arguments.

        Raises:
            SchemaError: If it is something else, or its signature has no schema.
        """
        return fn if isinstance(fn, Tool) else cls(fn)

    @functools.cached_property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it.

        Raises:
            SchemaError: If the type of an argument has no schema.
        """
        schema = self._arguments.schema
        for name, text in self._documented.items():
            if name in schema["properties"]:
                schema["properties"][name].setdefault("description", text)
        return ToolSpec(self.name, self.description, schema)

    async def call(self, arguments_json: str) -> str:
        """Call the function as a model asks for it.

        A sync function runs in a thread, with the caller's context; a cancelled call
        does not stop it there.

        Args:
            arguments_json: A JSON object as text; empty for no arguments.

        Returns:
            The result: a str as it is, anything else as JSON.

        Raises:
            ToolArgumentError: If the arguments do not fit; its message is for the
                model.
            SchemaError: If the result cannot be written as JSON.

        What the function raises itself leaves unchanged.
        """
        values = self._arguments.parse(arguments_json)
        if inspect.iscoroutinefunction(self.fn):
            result = await self.fn(**values)
        else:
            result = await asyncio.to_thread(self._run, values)
            if inspect.isawaitable(result):
                result = await result
        if isinstance(result, str) and not isinstance(result, Enum):
            return result
        return self._as_json(result)

    @functools.cached_property
    def _arguments(self) -> "_Arguments":
        types = _types_of(self.fn, self.name)
        defaults = {
            p.name: p.default
            for p in self._parameters
            if p.default is not inspect.Parameter.empty
        }
        return _Arguments(
            f"tool {self.name!r}",
            {p.name: types[p.name] for p in self._parameters},
            defaults,
        )

    def _run(self, values: Mapping[str, Any]) -> Any:
        """Call a sync function; a StopIteration would never leave the thread."""
        try:
            return self.fn(**values)
        except StopIteration as exc:
            raise RuntimeError(f"tool {self.name!r} raised StopIteration") from exc

    def _as_json(self, result: Any) -> str:
        """Return a result as JSON text."""
        try:
            return json.dumps(result, ensure_ascii=False, default=jsonable)
        except (TypeError, ValueError, RecursionError) as exc:
            raise SchemaError(
                f"the result of tool {self.name!r}, a value of type "
                f"{type(result).__name__}, cannot be written as JSON: {exc}. "
                f"Return a str, or what JSON can carry"
            ) from exc

    def __reduce__(self) -> tuple[Any, ...]:
        return Tool, (self.fn,)

    def __repr__(self) -> str:
        return f"Tool({self.name}{inspect.signature(self.fn)})"


def tools_of(tools: Iterable[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Return the tools by name, in order.

    Args:
        tools: Functions and tools.

    Raises:
        SchemaError: If two have the same name, or one is not a tool.
    """
    if callable(tools) or isinstance(tools, (str, Tool)):
        raise SchemaError("tools has to be a list of functions, as in tools=[search]")
    result: dict[str, Tool] = {}
    for item in tools:
        tool = Tool.of(item)
        if tool.name in result:
            raise SchemaError(
                f"two tools are named {tool.name!r}: a model calls them by name. "
                f"Rename one of the functions, or give the tool once"
            )
        result[tool.name] = tool
    return result


class _Arguments:
    """The arguments of a tool, which travel as one JSON object.

    Args:
        what: Whose they are, for messages.
        types: The type of each, in order.
        defaults: The value of each that may be left out.
    """

    def __init__(
        self, what: str, types: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        self._what = what
        fields = {}
        written = {}
        for name, tp in types.items():
            validator = Validator(tp, f"argument {name!r} of {what}")
            validator.json_schema()  # refuses by argument what would fail as a whole
            fields[name] = typing.NotRequired[tp] if name in defaults else tp
            if name in defaults:
                written[name] = validator.default(defaults[name])
        self._validator = Validator(object_type(fields, extra="forbid"), what)
        self.schema = self._validator.json_schema()
        self.schema.pop("title", None)
        for name, default in written.items():
            self.schema["properties"][name]["default"] = default

    def parse(self, text: str) -> dict[str, Any]:
        """Return the arguments of one call; those left out are absent."""
        try:
            return self._validator.read(text.strip() or "{}", "the arguments")
        except MisfitError as exc:
            raise ToolArgumentError(
                f"the arguments of {self._what} cannot be used: {exc}. "
                f"Call it again with a JSON object that fits its parameters."
            ) from exc


def _name_of(fn: Any) -> str:
    """Return the name of a function, refusing what is not one."""
    if not inspect.isroutine(fn):
        raise SchemaError(
            f"a tool has to be a function or a bound method, not a value of type "
            f"{type(fn).__name__}. Write a `def` with typed arguments that calls it"
        )
    if not _NAME.fullmatch(fn.__name__):
        raise SchemaError(
            f"a tool cannot be named {fn.__name__!r}: models know names of up to 64 "
            f"letters A-Z, digits, '_' and '-'. Write a `def` with such a name"
        )
    return fn.__name__


def _parameters_of(fn: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """Return the parameters, refusing those that have no schema."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (ValueError, TypeError) as exc:
        raise SchemaError(
            f"tool {name!r} has no readable signature. Write a `def` that calls it"
        ) from exc
    for parameter in parameters:
        place = f"argument {parameter.name!r} of tool {name!r}"
        if parameter.kind in _KINDS:
            raise SchemaError(
                f"{place} {_KINDS[parameter.kind]}, which has no schema. "
                f"Write out each argument, without '*', '**' and '/'"
            )
        if parameter.annotation is inspect.Parameter.empty:
            raise SchemaError(_untyped(place, parameter.name))
    return parameters


def _untyped(place: str, name: str) -> str:
    """Return the message for an argument without an annotation."""
    if name == "self":
        return f"{place} is not bound. Give the method of an object, as in `obj.method`"
    return f"{place} has no type. Annotate it, as in `{name}: str`"


def _types_of(fn: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return the annotations of a function, those written as text resolved."""
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as exc:
        raise SchemaError(
            f"the annotations of tool {name!r} use the name {exc.name!r}, which cannot "
            f"be found. Define it at module level, or remove "
            f"`from __future__ import annotations`"
        ) from exc


def _docs_of(fn: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the description of a function, and of each documented argument."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in (inspect.getdoc(fn) or "").splitlines():
        heading = _SECTION.fullmatch(line)
        if heading:
            current = "Args" if heading.group(1) in _ARGS else heading.group(1)
            sections.setdefault(current, [])
        else:
            sections[current].append(line)
    return "\n".join(sections[""]).strip(), _entries(sections.get("Args", []))


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the text of each ``name (type): text`` of an indented section."""
    entries: dict[str, list[str]] = {}
    texts: list[str] = []
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    for line in lines:
        outermost = len(line) - len(line.lstrip()) == min(indents, default=0)
        entry = _ENTRY.fullmatch(line.strip()) if outermost else None
        if entry:
            texts = entries.setdefault(entry.group(1), [])
        texts.append((entry.group(2) if entry else line).strip())
    return {name: " ".join(filter(None, parts)) for name, parts in entries.items()}
