"""What good runs show: demonstrations out of the calls of a run.

A demonstration is text, so a call that was shown an image gives none.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inf_engine.demos import Demo
from inf_engine.errors import OutputParseError
from inf_engine.graph import content
from inf_engine.llm import LLMInference
from inf_engine.messages import by_field
from inf_engine.parameter import Parameter
from inf_engine.record import NodeRecord, RunRecord
from inf_engine.schema import OutputType, jsonable
from inf_engine.template import Template

_HEADS = {f"{role}: ": role for role in ("system", "user", "assistant", "tool")}


@dataclasses.dataclass(frozen=True, slots=True)
class Lesson:
    """What the calls of a run show, for each parameter.

    Args:
        source: The digest of the inputs of the run.
        demos: What it shows, by the parameter's dotted name.
    """

    source: str
    demos: Mapping[str, tuple[Demo, ...]]


def lesson_of(
    record: RunRecord, names: Iterable[str], parameters: Iterable[str]
) -> Lesson | None:
    """Return what the calls of a run show, None if they are none of ours.

    Args:
        record: The run.
        names: The dotted names of the parameters that take demonstrations.
        parameters: Those of all parameters: their texts are left out.
    """
    source, every = source_of(record), list(parameters)
    demos = {
        name: tuple(
            demo_of(node, every, source)
            for node in record.nodes
            if node.outcome == "done" and stands_in(name, node)
        )
        for name in names
    }
    return Lesson(source, demos) if any(demos.values()) else None


def shown_by(
    lessons: Sequence[Lesson], names: Iterable[str], most: int
) -> dict[str, list[Any]]:
    """Return the states of parameters that show some runs.

    Args:
        lessons: What the runs show.
        names: The dotted names of the parameters.
        most: How many demonstrations each may get.
    """
    values = {}
    for name in names:
        demos = [demo for one in lessons for demo in one.demos.get(name, ())]
        alone = {json.dumps(demo.state["inputs"]): demo for demo in reversed(demos)}
        first = list(reversed(alone.values()))[:most]
        values[name] = [demo.state for demo in first]
    return values


def source_of(run: Any) -> str:
    """Return the digest of the inputs of a run: 16 hex digits.

    Args:
        run: A record, or the call of an example: it has `args` and `kwargs`.
    """
    text = json.dumps(content([run.args, run.kwargs]), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def demo_of(node: NodeRecord, parameters: Iterable[str], source: str) -> Demo:
    """Return what a call shows.

    Its inputs are the fields of its template; without one the prompt as it was filled
    in, of messages the last one of the user. What parameters put there is left out.

    Args:
        node: What the call did; it did not fail.
        parameters: The dotted names of the module's parameters.
        source: The digest of the run's inputs.
    """
    llm: LLMInference[Any] = node.node.target
    output = _as_json(node.output)
    if llm.output_type.wrapped:
        output = {"value": output}
    if llm.prompt is None:
        return Demo(_asked(node, set(parameters)), output, source)
    template = llm.prompt.value
    given = by_field(template, node.args, node.kwargs or {})
    captured = by_field(template, node.node.args, node.node.kwargs)
    inputs = {
        name: _as_field(value, is_whole=f"{{{name}}}" in template)
        for name, value in given.items()
        if not _is_parameter(captured[name])
    }
    return Demo(inputs, output, source)


def stands_in(name: str, node: NodeRecord) -> bool:
    """Say whether a parameter shaped a model call that saw text only."""
    pieces = (*node.system, *node.prompt)
    is_text = not any(piece.image for piece in node.prompt)
    return node.node.kind == "llm" and is_text and any(p.source == name for p in pieces)


def gives_the_output(node: NodeRecord, record: RunRecord) -> bool:
    """Say whether the answer of a call is the output of the run."""
    if record.graph.output is node.node:
        return True
    return node.outcome == "done" and bool(node.output == record.output)


def is_answer(target: Any, answers: OutputType) -> bool:
    """Say whether a target has the form of an answer, with nothing missing or over."""
    if answers.is_text:
        return isinstance(target, str) and bool(target.strip())
    plain = _as_json(target)
    try:
        return (
            target is not None and _as_json(answers.parse(json.dumps(plain))) == plain
        )
    except OutputParseError:
        return False


def _asked(node: NodeRecord, parameters: set[str]) -> str:
    """Return what the user said last in a prompt, without the parameters' texts."""
    pieces: list[str] = []
    is_user = True
    has_roles = bool(node.args) and isinstance(node.args[0], list | tuple | Mapping)
    for piece in node.prompt:
        role = _HEADS.get(piece.text) if has_roles and piece.source is None else None
        if role is not None:
            is_user = role == "user"
            pieces = [] if is_user else pieces
        elif is_user and piece.source not in parameters:
            pieces.append(piece.text)
    return "".join(pieces).strip()


def _is_parameter(value: Any) -> bool:
    """Say whether a captured argument is nothing but the text of parameters."""
    if isinstance(value, Template):
        holes = [hole.source for hole in value.holes]
        texts = "".join(part for part in value.parts if isinstance(part, str))
        return not texts.strip() and all(isinstance(s, Parameter) for s in holes)
    return isinstance(value, Parameter)


def _as_field(value: Any, *, is_whole: bool) -> Any:
    """Return a field as JSON; an object that the prompt has as a whole as its text."""
    is_plain = value is None or isinstance(value, str | int | float | list | Mapping)
    return _as_json(value) if is_plain or not is_whole else str(value)


def _as_json(value: Any) -> Any:
    """Return a value as JSON; as text where JSON has no word for it."""
    try:
        return json.loads(json.dumps(value, default=jsonable, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)
