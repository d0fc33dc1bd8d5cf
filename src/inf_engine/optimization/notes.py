"""`Note`: feedback addressed to a node or a parameter, with its `Evidence`.

Evidence is exact: what one call of a model was asked, word by word with the origin of
each word, and what it answered. It is text and numbers only, so that notes which wait
on a parameter keep no record alive.
"""

from dataclasses import dataclass
from typing import Literal

from inf_engine.record import Segment
from inf_engine.types import ImagePart

Role = Literal["system", "prompt", "text", "model"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One call that a parameter shaped.

    Args:
        example: The place of the example in its batch, from 0.
        node: The node's name, such as ``extract#1``.
        role: Where the parameter stands: it is the system prompt, the prompt template,
            a piece of a text, or the model itself.
        system: The system prompt, each piece with its origin.
        prompt: The prompt as it was filled in, likewise.
        output: What the node gave, as text; empty if it failed.
        error: Why it failed, None if it did not.
        feedback: What was said of the run's output in the end.
        score: The score of the run, None without one.
        final: The run's output as text.
        target: What the output should have been, as text; empty if that is not known.
        answer: The endpoint's id of the answer, empty if it gave none.
    """

    example: int
    node: str
    role: Role
    system: tuple[Segment, ...] = ()
    prompt: tuple[Segment, ...] = ()
    output: str = ""
    error: str | None = None
    feedback: str = ""
    score: float | None = None
    final: str = ""
    target: str = ""
    answer: str = ""

    @property
    def asked(self) -> str:
        """The prompt as the model read it, without the system prompt."""
        return "".join(piece.text for piece in self.prompt)

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images in that prompt, each once; in `asked` they have their names."""
        found = (piece.image for piece in self.prompt if piece.image is not None)
        return tuple({image.digest: image for image in found}.values())


@dataclass(frozen=True, slots=True)
class Note:
    """Feedback addressed to one node or parameter.

    Args:
        content: The words.
        score: The score of the run or runs that it is about, None without one.
        source: Who wrote it: ``loss``, ``critic``, or the node that passed it on.
        evidence: For a parameter, the calls that it is about.
    """

    content: str
    score: float | None = None
    source: str = "loss"
    evidence: tuple[Evidence, ...] = ()
