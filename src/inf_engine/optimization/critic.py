"""`Critic`: a model that says what each part of a pipeline should do differently.

It is asked about one node at a time, with all calls of it in a batch: what the node was
told, what it answered, and what was said of that. It answers with a note for each
parameter of the node, and one for each input that was not what the node needed. An
input that it says nothing of was fine: nothing goes on to it. Notes that name what is
not there are asked for again, with what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inf_engine.errors import CriticError
from inf_engine.functional import op
from inf_engine.graph import GraphNode
from inf_engine.llm import LLMInference
from inf_engine.module import InferenceModule
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.questions import cut, fenced
from inf_engine.optimization.rules import evidence_of, parameters_of
from inf_engine.optimization.walk import Walk
from inf_engine.parameter import Parameter

if TYPE_CHECKING:
    from inf_engine.execution.engine import Engine

_MOST_REFUSED = 2

INSTRUCTIONS = """\
You review one step of a pipeline of language model calls. You are shown what the step \
was told, what it answered in several examples, and what was said of the results.

Say what has to change so that the results get better:
- for each parameter: what its text should say, or no longer say. Name the general \
rule behind the examples, not the examples. If nothing is wrong, say what must stay.
- for each input that was wrong or missing something: what it should have been, for \
which example. Leave out the inputs that were fine.
Be specific and short. Do not write the new texts yourself."""


@dataclass(frozen=True)
class ParameterNote:
    """What the text of one parameter should say differently."""

    parameter: str
    note: str


@dataclass(frozen=True)
class InputNote:
    """What one input of one example should have been."""

    example: int
    input: str
    note: str


@dataclass(frozen=True)
class Review:
    """The notes of a critic on one step."""

    parameters: list[ParameterNote]
    inputs: list[InputNote]


@dataclass(frozen=True)
class Names:
    """What notes may be about.

    Args:
        step: The name of the node.
        parameters: Its parameters.
        inputs: For each example the inputs of the node.
    """

    step: str
    parameters: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...]

    def complaint(self, review: Review) -> str:
        """Return what a review names that is not there, empty if there is nothing."""
        for said in review.parameters:
            if said.parameter not in self.parameters:
                return _stray(f"parameter {said.parameter!r}", self.parameters)
        for remark in review.inputs:
            if not 0 <= remark.example < len(self.inputs):
                known = tuple(map(str, range(len(self.inputs))))
                return _stray(f"example {remark.example}", known)
            inputs = self.inputs[remark.example]
            if remark.input not in inputs:
                return _stray(f"input {remark.input!r}", inputs)
        return ""


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


class Critic(InferenceModule):
    """Writes notes for parameters and inputs.

    Args:
        alias: The model that is asked.
        instructions: What it is told to do.
        characters: The most characters of one text in an example that it is shown.
    """

    def __init__(
        self, alias: str, instructions: str = INSTRUCTIONS, characters: int = 4000
    ) -> None:
        super().__init__()
        self.characters = characters
        self.llm = LLMInference(
            alias, instructions, response_format=Review, max_reasks=2
        )

    def forward(self, question: str, names: Names) -> Any:
        """Return the `Review` of one step, whose notes name only what is there."""
        review = self.llm(question)
        for _ in range(_MOST_REFUSED):
            complaint = _complaint(names, review)
            if not complaint:
                return review
            refused = f"# Your last answer was refused\n\nYour notes {complaint}."
            review = self.llm(f"{question}\n\n{refused}")
        return _checked(names, review, self.llm.alias)

    async def judge(self, engine: "Engine", groups: Sequence[Group]) -> None:
        """Ask about some nodes, all at the same time, and hand out the notes.

        Raises:
            CriticError: If one could not be asked, or its answer is of no use.
        """
        questions = [self.question(group) for group in groups]
        names = [_names(group) for group in groups]
        results = await engine.map(self, questions, names, errors="collect")
        for group, result in zip(groups, results, strict=True):
            cause = getattr(result.error, "cause", None)
            if isinstance(cause, CriticError):  # it was asked, and of no use
                raise CriticError(str(cause)) from result.error
            if result.error is not None:
                raise CriticError(
                    f"the critic could not review {group.name!r}: {result.error} Look "
                    f"at alias {self.llm.alias!r}, or pass critic=None."
                ) from result.error
        for group, result in zip(groups, results, strict=True):
            self._hand_out(group, result.output)

    def question(self, group: Group) -> str:
        """Return what is asked about a node."""
        parts = [f"# The step: {group.name}"]
        for parameter in group.parameters:
            about = f" ({parameter.description})" if parameter.description else ""
            parts.append(f"## Parameter {name_of(parameter)!r}{about}")
            parts.append(fenced(parameter.value))
        for number, (walk, node) in enumerate(group.items):
            parts += self._example(number, walk, node)
        return "\n\n".join(parts)

    def _example(self, number: int, walk: Walk, node: GraphNode) -> list[str]:
        """Return what one call of the node is shown as."""
        evidence = evidence_of(walk, node, "text")
        score = "" if evidence.score is None else f", score {evidence.score:g}"
        parts = [f"# Example {number}{score}"]
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

    def _hand_out(self, group: Group, review: Review) -> None:
        """Leave the notes where they belong."""
        asked = {name_of(parameter): parameter for parameter in group.parameters}
        for said in review.parameters:
            self._tell(group, asked[said.parameter], said.note)
        told = [said.parameter for said in review.parameters]
        for name, parameter in asked.items():
            if name not in told:
                self._tell(group, parameter, "")
        for remark in review.inputs:
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


def _names(group: Group) -> Names:
    """Return what notes on a node may be about."""
    parameters = tuple(map(name_of, group.parameters))
    inputs = [[source.name for source in w.sources(n)] for w, n in group.items]
    return Names(group.name, parameters, tuple(map(tuple, inputs)))


@op
def _complaint(names: Names, review: Review) -> str:
    """Return what is wrong with a review, empty if nothing is."""
    return names.complaint(review)


@op
def _checked(names: Names, review: Review, alias: str) -> Review:
    """Return the last review.

    Raises:
        CriticError: If it is of no use, either.
    """
    complaint = names.complaint(review)
    if complaint:
        raise CriticError(
            f"the critic's notes on {names.step!r} {complaint}. Ask a stronger model "
            f"than {alias!r}, or pass critic=None."
        )
    return review


def _stray(what: str, known: Sequence[str]) -> str:
    return f"name {what}, and there is {', '.join(known) or 'none'}"


def name_of(parameter: Parameter) -> str:
    """Return the dotted name of a parameter, or a stand-in."""
    return parameter.name or "parameter"
