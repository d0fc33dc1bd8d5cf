"""The records that the parts of claas hand to each other; plain data, JSON inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "message", "critique", "correction", "judge", "error", "sibling", "praise"
]
"""What a feedback is: the user's next message, a critique of the answer, the answer as
it should have been, a judge's words, a runtime error, a sibling answer that succeeded,
or praise (which never trains as if the answer had been wrong)."""

KINDS: tuple[Kind, ...] = (
    *("message", "critique", "correction", "judge", "error", "sibling", "praise"),
)


PRAISED = 0.5
"""From this score on a judge who says no more praises."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was asked and what was sampled for it, as the inference server said.

    Args:
        id: ``x-claas-receipt`` of the response.
        user: Whose it is.
        lora: The adapter, ``user/model``; empty where the base answered.
        version: Its version that answered; None where the base did.
        messages: The conversation up to the answer, as it came; a plain completion is
            one message of the role ``prompt``.
        tools: The tools of the request, as they came.
        prompt_ids: The tokens of the prompt.
        token_ids: The tokens that were sampled, the one that ended it included.
        logprobs: Their log probabilities, natural, as reported; empty if it did not.
        text: The answer.
        sampling: The sampling settings of the request.
        created: Seconds since 1970.
    """

    id: str
    user: str
    lora: str
    version: int | None
    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    tools: tuple[Mapping[str, Any], ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """How to see whether an answer follows a feedback; all that is set must hold.

    Args:
        required: A regular expression that must be found in the answer; case does not
            matter, as in `forbidden`.
        forbidden: A regular expression that must not be found.
        most_words: How many words the answer may have, 0 for any number.
        prompts: Further prompts that it must hold for: held out, never trained on.
    """

    required: str = ""
    forbidden: str = ""
    most_words: int = 0
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said about an answer.

    Args:
        id: Given by the sender or made up; the same id twice is one feedback.
        receipt: The id of the receipt.
        kind: See `Kind`.
        content: The words, the corrected answer, the error.
        score: From 0 to 1 where a judge gave one.
        created: Seconds since 1970.
        check: How to see whether an answer follows it, if that can be said.
    """

    id: str
    receipt: str
    kind: Kind
    content: str
    score: float | None = None
    created: float = 0.0
    check: Check | None = None

    @property
    def is_praise(self) -> bool:
        """Whether it says that the answer was good: so does a judge's score alone."""
        is_wordless = self.kind == "judge" and not self.content.strip()
        return self.kind == "praise" or (is_wordless and (self.score or 0) >= PRAISED)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A feedback together with the answer that it is about: what is trained on."""

    feedback: Feedback
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt that an adapter must go on answering as a feedback asked.

    Args:
        lesson: The feedback and its receipt; what follows it is judged by them.
        messages: The conversation up to the answer: the receipt's, or a held-out one.
    """

    lesson: Lesson
    messages: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a training made; not yet a version.

    Args:
        folder: The adapter in PEFT's files, with the optimizer's state beside it.
        figures: What was measured on the way, by name: losses, seconds, …
        steps: How many inner steps were made.
    """

    folder: Path
    figures: Mapping[str, Any]
    steps: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a candidate.

    Args:
        is_promoted: Whether it may serve.
        reasons: One sentence for each check that failed, or for the gain.
        figures: Each measured value with its interval and limit, by name.
    """

    is_promoted: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token of an answer, as `explain` shows it.

    Args:
        token: Its text.
        student: Its log probability after the prompt.
        teacher: The same after the hinted prompt.
        push: The difference: above 0, the feedback speaks for the token.
        student_best: What the student likes best there.
        teacher_best: What the teacher likes best there.
    """

    token: str
    student: float
    teacher: float
    push: float
    student_best: str
    teacher_best: str
