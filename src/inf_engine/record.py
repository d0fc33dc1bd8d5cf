"""`RunRecord`: what happened in one run, frozen.

Times are seconds since the run began. Texts carry their origin: a prompt is a tuple of
`Segment`s, each with the node or parameter whose value stands there.
"""

import itertools
import math
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from inf_engine.errors import AnswerError, InfEngineError, UsageError
from inf_engine.graph import GraphNode, InferenceGraph
from inf_engine.llm import LLMInference
from inf_engine.messages import by_field, part_of
from inf_engine.parameter import Parameter
from inf_engine.quick import quick
from inf_engine.report import write_report
from inf_engine.svg import graph_svg
from inf_engine.template import Hole, Template, pieces_of
from inf_engine.types import ImagePart, LLMRequest, LLMResponse, Message, Usage

Outcome = Literal["done", "failed", "cancelled", "running", "waiting"]
ValueOf = Callable[[GraphNode], Any]
Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_DECIMALS = 12  # of USD: the units in which the ledger counts


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt; `source` names the node or parameter it came from.

    Args:
        text: The text; of an image what stands for it.
        source: The name of the node or parameter, None for none.
        image: The image, None for text.
    """

    text: str
    source: str | None = None
    image: ImagePart | None = None


@quick
@dataclass(frozen=True, slots=True)
class Call:
    """One request that left, and its answer.

    Args:
        request: What was sent.
        response: What came back, None if it failed.
        error: Why it failed, None if it did not.
        started: When it left, seconds since the run began.
        seconds: How long it took.
        waited: Seconds that it was in line before it left.
        reused: Where its answer came from if nothing was sent: a file, or the record
            of an earlier run; None if it was.
        kept: What that answer took when it was paid for; nothing if it was sent.
    """

    request: LLMRequest
    response: LLMResponse | None
    error: BaseException | None
    started: float
    seconds: float
    waited: float = 0.0
    reused: Literal["journal", "cache", "record"] | None = None
    kept: Usage = Usage()

    @property
    def usage(self) -> Usage:
        """What its answer took, now or when it was paid for; nothing without one."""
        paid = self.paid
        return self.kept if self.reused or paid is None else paid.usage

    @property
    def paid(self) -> LLMResponse | None:
        """The answer that was paid for, also one of no use, as its `error` tells."""
        if isinstance(self.error, AnswerError):
            return self.error.response
        return self.response

    @property
    def cost(self) -> float | None:
        """What its answer cost in USD: 0.0 without one, None if no price is known."""
        paid = self.paid
        return 0.0 if paid is None else paid.cost


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What one node did.

    Args:
        node: The node of the graph.
        outcome: How it ended; in a run that goes on, ``running`` or ``waiting``.
        args: Its positional inputs as filled in, empty if it never started.
        kwargs: Its keyword inputs, likewise.
        output: What it gave, None unless it is done.
        error: Why it failed or was cancelled.
        calls: Its requests in order; retries, tool turns and re-asks are each one.
        ready: When all it waited for was known; None if that never came.
        started: When its first request left or its function started.
        seconds: From `started` to its end.
        usage: The sum over its calls.
        system: Its system prompt, for a model call.
        prompt: Its prompt with the origin of each piece, for a model call.
        ended: When it ended, or was given up; None if its turn never came.
    """

    node: GraphNode
    outcome: Outcome
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None
    output: Any = None
    error: BaseException | None = None
    calls: tuple[Call, ...] = ()
    ready: float | None = None
    started: float | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    system: tuple[Segment, ...] = ()
    prompt: tuple[Segment, ...] = ()
    ended: float | None = None

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def cost(self) -> float | None:
        """What its answers cost in this run, in USD; None if a price is not known.

        Answers from the journal or the cache cost nothing: they were paid before. A
        try that failed is not in it.
        """
        return cost_of(self.calls)

    @property
    def reused(self) -> str | None:
        """Where all its answers came from, as in a `Call`; None if it asked."""
        sources = {call.reused for call in self.calls}
        return sources.pop() if len(sources) == 1 else None

    @property
    def waits(self) -> tuple[tuple[float, float], ...]:
        """When it waited for a slot, a limit or a pause, and for how many seconds.

        Seconds since the run began; from the moment that all it needs was known.
        """
        end = self.ended if self.started is None else self.started
        found = [] if self.ready is None or end is None else [(self.ready, end)]
        for before, call in itertools.pairwise(self.calls):
            failed_at = before.started + before.seconds
            since = failed_at if before.error else call.started - call.waited
            found.append((since, call.started))
        return tuple((begin, end - begin) for begin, end in found if end > begin)

    @property
    def waited(self) -> float:
        """The sum of `waits`, seconds."""
        return math.fsum(seconds for _, seconds in self.waits)

    @property
    def alias(self) -> str | None:
        """The alias it called."""
        return self.node.alias


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What happened in one run.

    Args:
        module: The class name of the module.
        args: The positional inputs.
        kwargs: The keyword inputs.
        output: What the run gave, None if it failed.
        error: Why it failed, None if it did not.
        graph: The graph as it was traced.
        nodes: One record for each node, in trace order.
        usage: The sum over all calls.
        seconds: How long the run took.
    """

    module: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    error: BaseException | None
    graph: InferenceGraph
    nodes: tuple[NodeRecord, ...]
    usage: Usage
    seconds: float

    @property
    def cost(self) -> float | None:
        """What its answers cost in this run, in USD; None if a price is not known.

        Answers from the journal or the cache cost nothing: they were paid before.
        Tries that failed are not in it; what those may have cost is in the
        ``unknown_cost`` of `Engine.statistics`.
        """
        return cost_of([call for node in self.nodes for call in node.calls])

    def node(self, name: str) -> NodeRecord:
        """Return the record of the node of that name.

        Raises:
            GraphError: If there is none.
        """
        return self.nodes[self.graph.node(name).index]

    def critical_path(self) -> list[NodeRecord]:
        """Return the chain of nodes that the run's duration came from."""
        path = self.graph.critical_path(lambda node: self.nodes[node.index].seconds)
        return [self.nodes[node.index] for node in path]

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page about the run.

        Args:
            path: The file; created readable by its owner only, because prompts and
                answers are in it.

        Returns:
            The path.

        Raises:
            UsageError: If the folder does not exist or cannot be written to.
        """
        target = Path(path)
        try:
            write_report(self, target)
        except OSError as exc:
            raise UsageError(
                f"cannot write the report to {target}: {exc.strerror}. Give a file in "
                "a folder that exists."
            ) from exc
        return target

    def _repr_html_(self) -> str:
        picture = graph_svg(
            self.graph,
            seconds={node.node.index: node.seconds for node in self.nodes},
            critical=[node.node.index for node in self.critical_path()],
            outcomes={node.node.index: node.outcome for node in self.nodes},
        )
        return f'<div style="overflow:auto">{picture}</div>'


def cost_of(calls: Iterable[Call]) -> float | None:
    """Return what answers cost in all, in USD; None if a price is not known.

    Args:
        calls: The requests; those without an answer are not counted.
    """
    costs = []
    for call in calls:
        cost = call.cost
        if cost is None:
            return None
        costs.append(cost)
    return round(math.fsum(costs), _DECIMALS)


def prompt_segments(
    node: GraphNode, inputs: Inputs, value_of: ValueOf
) -> tuple[Segment, ...]:
    """Return the prompt of a model call piece by piece, with origins.

    Args:
        node: A node of kind ``llm``.
        inputs: Its arguments as filled in.
        value_of: Gives the value of a node.
    """
    llm: LLMInference[Any] = node.target
    if llm.prompt is not None:
        try:
            filled = _template_segments(llm, node, inputs, value_of)
        except Exception:  # noqa: BLE001 - it is why the call failed
            filled = [Segment(llm.prompt.value, _parameter_name(llm.prompt))]
        return (*_demo_segments(llm, inputs), *filled)
    prompts = [*node.args, *node.kwargs.values()]
    pieces = [s for value in prompts for s in _segments(value, value_of)]
    if llm.demos is None:
        return tuple(pieces)
    messages: Any = prompts[0] if isinstance(prompts[0], (list, tuple)) else prompts
    heads = list(itertools.takewhile(_is_system, messages[:-1]))
    place = len(_segments(heads, value_of))
    shown = _demo_segments(llm, inputs, has_roles=_role(messages[0]) != "")
    return (*pieces[:place], *shown, *pieces[place:])


def _template_segments(
    llm: LLMInference[Any], node: GraphNode, inputs: Inputs, value_of: ValueOf
) -> list[Segment]:
    """Return a prompt template as it was filled in."""
    assert llm.prompt is not None
    template, owner = llm.prompt.value, _parameter_name(llm.prompt)
    captured = by_field(template, node.args, node.kwargs)
    values = by_field(template, *inputs)
    found = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        if literal:
            found.append(Segment(literal, owner))
        if name is None:
            continue
        if name in captured and not spec and not conversion:
            found += _segments(captured[name], value_of)
            continue
        field = name + (f"!{conversion}" if conversion else "")
        text = ("{" + field + (f":{spec}" if spec else "") + "}").format(**values)
        given = captured.get(name.split(".")[0].split("[")[0])
        source = given.name if isinstance(given, GraphNode) else None
        found.append(Segment(text, source))
    return found


def _demo_segments(
    llm: LLMInference[Any], inputs: Inputs, *, has_roles: bool = False
) -> tuple[Segment, ...]:
    """Return the turns before a prompt as one piece, which is empty without any."""
    if llm.demos is None:
        return ()
    try:
        turns = llm.shown_turns(*inputs)
    except Exception:  # noqa: BLE001 - it is why the call failed
        turns = ()
    text = "".join([f"{turn.role}: {turn.text}\n" for turn in turns])
    head = "user: " if turns and not has_roles else ""
    return (Segment(text + head, _parameter_name(llm.demos)),)


def _role(message: Any) -> str:
    """Return who speaks in a message as it was captured, "" in what is none."""
    role = message.get("role") if isinstance(message, dict) else None
    found = getattr(message, "role", "") if role is None else role
    return found if isinstance(found, str) else ""


def _is_system(message: Any) -> bool:
    return _role(message) == "system"


def system_segments(node: GraphNode) -> tuple[Segment, ...]:
    """Return the system prompt of a model call, with its parameter as the origin."""
    system: Parameter | None = node.target.system_prompt
    if system is None:
        return ()
    return (Segment(system.value, _parameter_name(system)),)


def _segments(value: Any, value_of: ValueOf) -> list[Segment]:
    if isinstance(value, str | ImagePart):
        return [_segment(piece) for piece in pieces_of(value)]
    if isinstance(value, GraphNode):
        given = pieces_of(value_of(value))
        return [_segment(piece, value.name) for piece in given]
    if isinstance(value, Parameter):
        return [Segment(value.value, _parameter_name(value))]
    if isinstance(value, Template):
        pieces = value.segments(value_of)
        return [_segment(piece, _origin(hole)) for piece, hole in pieces]
    if isinstance(value, Message):
        value = {"role": value.role, "content": value.content}
    if isinstance(value, dict):
        head = [Segment(f"{value['role']}: ")] if "role" in value else []
        if "content" not in value:
            return _part_segments(value, value_of)
        return head + _segments(value["content"], value_of)
    if isinstance(value, (list, tuple)):
        return [
            s for item in value for s in (*_segments(item, value_of), Segment("\n"))
        ]
    return [Segment(getattr(value, "text", None) or f"[{type(value).__name__}]")]


def _part_segments(part: dict[str, Any], value_of: ValueOf) -> list[Segment]:
    """Return a part of a message, given as a dict."""
    if "image_url" not in part:
        return _segments(part.get("text", ""), value_of)
    try:
        return [_segment(part_of(part))]
    except InfEngineError:  # it is why the call failed
        return [Segment("[image]")]


def _segment(piece: Any, source: str | None = None) -> Segment:
    """Return a text or an image as a piece of a prompt."""
    image = piece if isinstance(piece, ImagePart) else None
    return Segment(str(piece), source, image)


def _origin(hole: Hole | None) -> str | None:
    if hole is None:
        return None
    if isinstance(hole.source, Parameter):
        return _parameter_name(hole.source)
    return hole.source.name if isinstance(hole.source, GraphNode) else None


def _parameter_name(parameter: Parameter) -> str:
    return parameter.name or "parameter"
