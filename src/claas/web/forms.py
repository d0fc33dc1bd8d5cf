"""What clients send, apart from completions."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from claas.errors import ConfigurationError
from claas.patterns import Pattern as Compiled
from claas.types import PRAISED, Kind

_FEEDBACK = ("receipt", "lora", "kind", "content", "score", "id", "check")


def _pattern(text: str) -> str:
    """Return a regular expression, if it is one."""
    try:
        Compiled(text)
    except ConfigurationError as exc:
        raise ValueError(f"it is no regular expression: {exc.__cause__}") from exc
    return text


Text = Annotated[str, Field(min_length=1)]
Pattern = Annotated[str, Field(max_length=500), AfterValidator(_pattern)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class Form(BaseModel):
    """What a client sends; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CheckForm(Form):
    """How to see whether an answer follows a feedback.

    Args:
        required: A regular expression that must be found in the answer.
        forbidden: One that must not be found.
        most_words: How many words it may have, 0 for any number.
        prompts: Further prompts that it must hold for; they are never trained on.
    """

    required: Pattern = ""
    forbidden: Pattern = ""
    most_words: Annotated[int, Field(ge=0)] = 0
    prompts: Annotated[list[Text], Field(max_length=32)] = []


class SaidForm(Form):
    """What somebody says about an answer.

    Args:
        kind: What it is, see `claas.types.Kind`.
        content: The words, the corrected answer, the error.
        score: From 0 to 1 where a judge gave one.
        id: The same id twice is one feedback; None for a new one.
        check: How to see whether an answer follows it, if that can be said.
    """

    kind: Kind
    content: str = ""
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    check: CheckForm | None = None

    @model_validator(mode="after")
    def _has_words(self) -> "SaidForm":
        is_judge = self.kind == "judge" and (self.score or 0) >= PRAISED
        if self.content.strip() or self.kind == "praise" or is_judge:
            return self
        raise ValueError(
            f"a {self.kind} needs a 'content'; only praise, and a judge's score of "
            f"{PRAISED} or more, need none"
        )


class FeedbackForm(SaidForm):
    """Feedback on an answer that passed through here.

    Args:
        receipt: The id of the answer, or its ``x-claas-receipt``.
        lora: Which adapter is to learn from it, where the base answered.
    """

    receipt: Text
    lora: Text | None = None


class FeedbackRequest(Form):
    """What `/v1/feedback` takes: one feedback, or a list under ``feedback``.

    Args:
        feedback: The feedback.
        train: Whether an update is to be made of it now.
        wait: Whether to wait for the update.
    """

    feedback: Annotated[list[FeedbackForm], Field(min_length=1)]
    train: bool = True
    wait: bool = False

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, data: Any) -> Any:
        """Make a list of one feedback."""
        if not isinstance(data, dict) or "feedback" in data:
            return data
        rest = {k: v for k, v in data.items() if k not in _FEEDBACK}
        one = {k: v for k, v in data.items() if k in _FEEDBACK}
        return {**rest, "feedback": [one]}


class DistillRequest(SaidForm):
    """What `/v1/distill` takes: feedback on an answer that did not pass through here.

    Args:
        model: The adapter that is to learn.
        messages: The conversation before the answer.
        prompt: A plain prompt, where there is no conversation.
        response: The answer.
        tools: The tools of the request.
        train: Whether an update is to be made of it now.
        wait: Whether to wait for the update.
    """

    model: Text
    response: Text
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    prompt: Text | None = None
    tools: list[dict[str, Any]] = []
    train: bool = True
    wait: bool = False

    @model_validator(mode="after")
    def _has_prompt(self) -> "DistillRequest":
        _check_prompt(self.messages, self.prompt)
        return self


class ScoreRequest(Form):
    """What `/v1/score` takes: an answer, by its receipt or as it is.

    Args:
        model: Who is to say how probable it is.
        receipt: The id of the answer.
        messages: The conversation before the answer, where there is no receipt.
        prompt: A plain prompt, as a text or tokens.
        response: The answer, as a text or tokens.
        top_logprobs: How many of the most probable tokens to name at each place.
    """

    model: Text
    receipt: Text | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    prompt: Text | Tokens | None = None
    response: Text | Tokens | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=100)] = 0

    @model_validator(mode="after")
    def _has_answer(self) -> "ScoreRequest":
        if self.receipt is not None:
            if self.messages or self.prompt or self.response:
                raise ValueError("send a 'receipt', or an answer, not both")
            return self
        if self.response is None:
            raise ValueError("send a 'receipt', or a 'response' with what was asked")
        _check_prompt(self.messages, self.prompt)
        return self


class RateRequest(Form):
    """What `/v1/rate` takes: how good an answer was.

    Args:
        receipt: The id of the answer.
        rating: From 0 to 1.
    """

    receipt: Text
    rating: Annotated[float, Field(ge=0, le=1)]


class InitRequest(Form):
    """What `POST /v1/lora` takes.

    Args:
        lora: What the adapter is to be called, ``user/model``.
    """

    lora: Text


class VersionRequest(Form):
    """What `promote` and `rollback` take.

    Args:
        version: The number of the version; None, in a rollback, for the one before.
    """

    version: Annotated[int, Field(ge=0)] | None = None


class JobRequest(Form):
    """What ``rebuild`` takes.

    Args:
        wait: Whether to wait for the end.
    """

    wait: bool = False


class ExplainRequest(JobRequest):
    """What ``explain`` takes: a feedback, or an answer whose last feedback is meant.

    Args:
        feedback: The id of the feedback.
        receipt: The id of the answer.
    """

    feedback: Text | None = None
    receipt: Text | None = None

    @model_validator(mode="after")
    def _has_one(self) -> "ExplainRequest":
        if (self.feedback is None) == (self.receipt is None):
            raise ValueError("send a 'feedback', or a 'receipt'")
        return self


class DiffRequest(JobRequest):
    """What ``diff`` takes.

    Args:
        other: The version to compare with, ``user/model@v3``.
    """

    other: Text


class ForgetRequest(JobRequest):
    """What ``forget`` takes.

    Args:
        feedback: The ids of feedback that is to be forgotten.
        receipts: The ids of answers: they, and all feedback on them.
    """

    feedback: list[Text] = []
    receipts: list[Text] = []

    @model_validator(mode="after")
    def _has_some(self) -> "ForgetRequest":
        if not (self.feedback or self.receipts):
            raise ValueError("say what is to be forgotten: 'feedback', 'receipts'")
        return self


def _check_prompt(messages: Any, prompt: Any) -> None:
    """Refuse a form that has neither messages nor a prompt, or both."""
    if (messages is None) == (prompt is None):
        raise ValueError("send 'messages', or a 'prompt'")
