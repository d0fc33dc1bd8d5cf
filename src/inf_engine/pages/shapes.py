"""What the pictures read of a graph and of a record.

Protocols, because both sides stand above: `InferenceGraph` draws itself and `RunRecord`
writes its report, so neither can be imported here.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from inf_engine.types import ImagePart, LLMRequest, LLMResponse, Usage


class NodeShape(Protocol):
    """A node of a graph."""

    @property
    def index(self) -> int:
        """Place in the trace, from 0."""
        ...

    @property
    def kind(self) -> str:
        """What was called: ``llm``, ``op``, ``branch`` ..."""
        ...

    @property
    def name(self) -> str:
        """Attribute path and call number."""
        ...

    @property
    def alias(self) -> str | None:
        """The alias that an LLM call asks for."""
        ...

    @property
    def target(self) -> Any:
        """What was called, or the name of the operation."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments."""
        ...

    @property
    def deps(self) -> Sequence["NodeShape"]:
        """The nodes that it waits for."""
        ...

    @property
    def inner(self) -> Sequence["NodeShape"]:
        """The nodes that the output of a branch came from."""
        ...

    @property
    def parent(self) -> "NodeShape | None":
        """The branch that recorded it."""
        ...


class GraphShape(Protocol):
    """A graph."""

    @property
    def nodes(self) -> Sequence[NodeShape]:
        """The nodes in trace order."""
        ...

    @property
    def output(self) -> Any:
        """What forward returned, nodes and templates in the place of values."""
        ...

    def topological_order(self) -> Sequence[NodeShape]:
        """Return the nodes so that each comes after all that it waits for."""
        ...


class SegmentShape(Protocol):
    """A piece of a prompt."""

    @property
    def text(self) -> str:
        """The text."""
        ...

    @property
    def source(self) -> str | None:
        """The node or parameter it came from, None for text of the program."""
        ...

    @property
    def image(self) -> ImagePart | None:
        """The image that the text stands for, None for mere text."""
        ...


class CallShape(Protocol):
    """One request that left, and its answer."""

    @property
    def request(self) -> LLMRequest:
        """What was sent."""
        ...

    @property
    def response(self) -> LLMResponse | None:
        """What came back."""
        ...

    @property
    def error(self) -> BaseException | None:
        """Why it failed."""
        ...

    @property
    def started(self) -> float:
        """When it left, seconds since the run began."""
        ...

    @property
    def seconds(self) -> float:
        """How long it took."""
        ...

    @property
    def reused(self) -> str | None:
        """Where its answer came from if nothing was sent."""
        ...

    @property
    def cost(self) -> float | None:
        """What its answer cost in USD, None if no price is known."""
        ...


class NodeRecordShape(Protocol):
    """What one node did."""

    @property
    def node(self) -> NodeShape:
        """The node."""
        ...

    @property
    def outcome(self) -> str:
        """How it ended: ``done``, ``failed`` or ``cancelled``."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional inputs as filled in."""
        ...

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Its keyword inputs as filled in."""
        ...

    @property
    def output(self) -> Any:
        """What it gave."""
        ...

    @property
    def error(self) -> BaseException | None:
        """Why it failed or was cancelled."""
        ...

    @property
    def calls(self) -> Sequence[CallShape]:
        """Its requests in order."""
        ...

    @property
    def ready(self) -> float | None:
        """When all it waited for was known, seconds since the run began."""
        ...

    @property
    def started(self) -> float | None:
        """When it started, seconds since the run began."""
        ...

    @property
    def seconds(self) -> float:
        """From `started` to its end."""
        ...

    @property
    def usage(self) -> Usage:
        """The sum over its calls."""
        ...

    @property
    def cost(self) -> float | None:
        """What its answers cost in USD, None if a price is not known."""
        ...

    @property
    def reused(self) -> str | None:
        """Where all its answers came from, None if it was asked."""
        ...

    @property
    def waits(self) -> Sequence[tuple[float, float]]:
        """When it waited, seconds since the run began, and for how many."""
        ...

    @property
    def waited(self) -> float:
        """The sum of `waits`, seconds."""
        ...

    @property
    def system(self) -> Sequence[SegmentShape]:
        """Its system prompt."""
        ...

    @property
    def prompt(self) -> Sequence[SegmentShape]:
        """Its prompt, with the origin of each piece."""
        ...


class RecordShape(Protocol):
    """What happened in one run."""

    @property
    def module(self) -> str:
        """The class name of the module."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional inputs."""
        ...

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword inputs."""
        ...

    @property
    def output(self) -> Any:
        """What the run gave."""
        ...

    @property
    def error(self) -> BaseException | None:
        """Why it failed."""
        ...

    @property
    def graph(self) -> GraphShape:
        """The graph as it was traced."""
        ...

    @property
    def nodes(self) -> Sequence[NodeRecordShape]:
        """One record for each node, in trace order."""
        ...

    @property
    def usage(self) -> Usage:
        """The sum over all calls."""
        ...

    @property
    def cost(self) -> float | None:
        """What its answers cost in USD, None if a price is not known."""
        ...

    @property
    def seconds(self) -> float:
        """How long the run took."""
        ...

    def critical_path(self) -> Sequence[NodeRecordShape]:
        """Return the chain of nodes that the run's duration came from."""
        ...
