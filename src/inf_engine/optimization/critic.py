"""`Critic`: a model that says what each part of a pipeline should do differently.

It is asked about one node at a time, with all calls of it in a batch: what the node was
told, what it answered, and what was said of that. It answers with a note for each
parameter of the node, and one for each input that was not what the node needed. An
input that it says nothing of was fine: nothing goes on to it.

The names that notes may have are part of the schema of the answer. One that does not
fit is asked for again, with what is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from inf_engine.containers import ModuleDict
from inf_engine.errors import CriticError
from inf_engine.graph import GraphNode
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.questions import cut, fenced
from inf_engine.optimization.rules import evidence_of, parameters_of
from inf_engine.optimization.walk import Walk
from inf_engine.parameter import Parameter
from inf_engine.template import joined

if TYPE_CHECKING:
    from inf_engine.execution.engine import Engine

_LIST: Any = list  # of types that are made here
_LITERAL: Any = Literal

INSTRUCTIONS = """\
You review one step of a pipeline of language model calls. You are shown what the step \
was told, what it answered in several examples, and what was said of the results.

Say what has to change so that the results get better:
- for each parameter: what its text should say, or no longer say. Name the general \
rule behind the examples, not the examples. If nothing is wrong, say what must stay.
- for each input that was wrong or missing something: what it should have been, for \
which example. Leave out the inputs that were fine.
Be specific and short. Do not write the new texts yourself."""


@dataclass
class Group:
    """The calls of one node in a batch, at one depth.

    Args:
        name: The node's name.
        items: The node of each example, with the walk that it belongs to.
        parameters: Those of its parameters that may be changed.
    """

    name: str
    items: list[tuple[Walk, GraphNode]]
    parameters: list[Parameter]


class Reviewer(InferenceModule):
    """Asks for reviews, each with an answer of its own type.

    Args:
        calls: The call for each question, by its number.
    """

    def __init__(self, calls: Mapping[str, LLMInference[Any]]) -> None:
        super().__init__()
        self.review = ModuleDict(calls)

    def forward(self, question: str, number: int) -> Any:
        """Return the review of one step."""
        return self.review[str(number)](question)


class Critic:
    """Writes notes for parameters and inputs.

    Args:
        alias: The model that is asked.
        instructions: What it is told to do.
        characters: The most characters of one text in an example that it is shown.
    """

    def __init__(
        self, alias: str, instructions: str = INSTRUCTIONS, characters: int = 4000
    ) -> None:
        self.alias = alias
        self.instructions = instructions
        self.characters = characters

    async def judge(self, engine: "Engine", groups: Sequence[Group]) -> None:
        """Ask about some nodes, all at the same time, and hand out the notes.

        Raises:
            CriticError: If one could not be asked, or its answer is of no use.
        """
        kinds = [_answer_of(*_names(group)) for group in groups]
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        reviewer = Reviewer({str(n): self._call(kind) for kind, n in numbers.items()})
        sees = engine.reads_images(self.alias)
        questions = [self.question(group, images=sees) for group in groups]
        places = [numbers[kind] for kind in kinds]
        results = await engine.map(reviewer, questions, places, errors="collect")
        for group, result in zip(groups, results, strict=True):
            if result.error is not None:
                raise CriticError(
                    f"the critic could not review {group.name!r}: {result.error} Look "
                    f"at alias {self.alias!r}, or pass critic=None."
                ) from result.error
        for group, result in zip(groups, results, strict=True):
            self._hand_out(group, result.output)

    def _call(self, answer: Any) -> LLMInference[Any]:
        """Return the call of the model for answers of a type."""
        return LLMInference(
            self.alias, self.instructions, response_format=answer, max_reasks=2
        )

    def question(self, group: Group, *, images: bool = False) -> str:
        """Return what is asked about a node; it holds images if those are wanted."""
        parts: list[Any] = [f"# The step: {group.name}"]
        for parameter in group.parameters:
            about = f" ({parameter.description})" if parameter.description else ""
            parts.append(f"## Parameter {name_of(parameter)!r}{about}")
            parts.append(fenced(parameter.value))
        for number, (walk, node) in enumerate(group.items):
            parts += self._example(number, walk, node, images)
        return joined([piece for part in parts for piece in (part, "\n\n")][:-1])

    def _example(
        self, number: int, walk: Walk, node: GraphNode, images: bool
    ) -> list[Any]:
        """Return what one call of the node is shown as."""
        evidence = evidence_of(walk, node, "text")
        score = "" if evidence.score is None else f", score {evidence.score:g}"
        parts: list[Any] = [f"# Example {number}{score}"]
        for image in evidence.images if images else ():
            parts += [f"## {image}", image]
        shown = [("Its prompt", evidence.asked), ("Its answer", evidence.output)]
        if evidence.error is not None:
            shown.append(("Its error", evidence.error))
        for source in walk.sources(node):
            value = walk.node_record(source).output
            shown.append(
                (f"Input {source.name!r}", "" if value is None else f"{value}")
            )
        if evidence.target:
            shown.append(("What the result should have been", evidence.target))
        notes = "\n".join(note.content for note in walk.notes(node))
        shown.append(("What was said of it", notes))
        for title, text in shown:
            parts.append(f"## {title}")
            parts.append(fenced(cut(text, self.characters)))
        return parts

    def _hand_out(self, group: Group, review: Any) -> None:
        """Leave the notes where they belong."""
        told: dict[str, list[str]] = {}
        for said in getattr(review, "parameters", ()):
            told.setdefault(said.parameter, []).append(said.note)
        for parameter in group.parameters:
            for content in told.get(name_of(parameter), [""]):
                self._tell(group, parameter, content)
        for remark in getattr(review, "inputs", ()):
            walk, node = group.items[remark.example]
            sources = {source.name: source for source in walk.sources(node)}
            note = Note(remark.note, walk.feedback.score, "critic")
            walk.pass_on(sources[remark.input], note)

    def _tell(self, group: Group, parameter: Parameter, content: str) -> None:
        """Leave a note on a parameter, with all calls that it shaped as evidence."""
        evidence: list[Evidence] = []
        for walk, node in group.items:
            roles = [r for p, r in parameters_of(node) if p is parameter]
            evidence += [evidence_of(walk, node, role) for role in roles]
        scores = [e.score for e in evidence if e.score is not None]
        mean = sum(scores) / len(scores) if scores else None
        said = content or "\n".join(dict.fromkeys(e.feedback for e in evidence))
        source = "critic" if content else "loss"
        parameter.accumulate_feedback(Note(said, mean, source, tuple(evidence)))


def _names(group: Group) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the parameters that notes may be about, and each example's inputs."""
    inputs = [[source.name for source in w.sources(n)] for w, n in group.items]
    return tuple(map(name_of, group.parameters)), tuple(map(tuple, inputs))


@lru_cache(maxsize=64)
def _answer_of(parameters: tuple[str, ...], inputs: tuple[tuple[str, ...], ...]) -> Any:
    """Return the type of a review: notes on these parameters, and on these inputs."""
    of: dict[str, Any] = {}
    if parameters:
        fields = [("parameter", _LITERAL[parameters]), ("note", str)]
        of["parameters"] = _LIST[_frozen("ParameterNote", fields)]
    if any(inputs):
        place = field(metadata={"ge": 0, "le": len(inputs) - 1})
        known = tuple(dict.fromkeys(name for names in inputs for name in names))
        named = [("example", int, place), ("input", _LITERAL[known]), ("note", str)]
        of["inputs"] = _LIST[_frozen("InputNote", named)]

    def check(review: Any) -> None:
        for said in getattr(review, "inputs", ()):
            if said.input not in inputs[said.example]:
                has = ", ".join(inputs[said.example]) or "none"
                raise ValueError(
                    f"example {said.example} has no input {said.input!r}, it has {has}"
                )

    return _frozen("Review", list(of.items()), __post_init__=check)


def _frozen(name: str, fields: Sequence[Any], **members: Any) -> Any:
    """Return a frozen dataclass."""
    space = {"__module__": __name__, **members}
    return make_dataclass(name, fields, frozen=True, namespace=space)


def name_of(parameter: Parameter) -> str:
    """Return the dotted name of a parameter, or a stand-in."""
    return parameter.name or "parameter"
