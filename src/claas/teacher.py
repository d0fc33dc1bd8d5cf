"""Teachers: what the model would have said, had it read the feedback first.

A teacher gives the log probabilities of its likeliest tokens at each place of an answer
that the student sampled. `SelfTeacher` is the base model itself with the hint in its
prompt: without an adapter, or with a promoted version pinned (never with the weights
that are being trained: a teacher that follows its pupil closely collapses). Two that
follow it from afar are in `claas.followers`.
`RemoteTeacher` is a larger model of the same vocabulary behind an inference server.

**Teachability.** Before anything is trained, the hinted model must show that it can do
what it is to teach: it *generates*, and a verifier looks. A log-probability margin says
only that the hint changes something; it once preferred a template that trained worse.
It is used where there is no verifier, and the answer says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from claas.base import Base, Rows, Sampled
from claas.checks import Verifier, parrots, verifier_of
from claas.errors import ConfigurationError, ServingError
from claas.hints import Hints
from claas.tuning import TeachSettings
from claas.types import Lesson

How = Literal["check", "likeness", "margin"]

_TOPS = 20  # what vLLM names without --max-logprobs
_SHOWN = 100  # tokens of the vocabulary that two tokenizers are compared on


@dataclass(frozen=True, slots=True)
class Tops:
    """The likeliest tokens at each place of some answers.

    Args:
        logprobs: Natural, of the whole vocabulary, [batch, answer, k].
        indices: The tokens, [batch, answer, k].
    """

    logprobs: torch.Tensor
    indices: torch.Tensor


class Teacher(Protocol):
    """What scores answers as somebody who has read the feedback."""

    def tops(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        top_k: int,
    ) -> Tops:
        """Return the likeliest tokens at each place of the answers.

        Args:
            prompts: Tokens of the hinted prompts.
            answers: Tokens of the answers.
            top_k: How many at each place.
        """
        ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        most: int,
        temperature: float,
        seed: int,
    ) -> list[Sampled] | None:
        """Answer hinted prompts; None if this teacher only scores.

        Args:
            prompts: Tokens of the hinted prompts.
            most: How many tokens an answer may have.
            temperature: 0 takes the likeliest token each time.
            seed: Of the chance.
        """
        ...

    def follow(self, student: Mapping[str, torch.Tensor]) -> None:
        """Take note of a step of the student; most teachers do nothing.

        Args:
            student: Its weights after the step, by name.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what the next update needs of this teacher; most write nothing.

        Args:
            folder: The candidate's.
        """
        ...


class SelfTeacher:
    """The base model, told of the feedback.

    Args:
        base: The model.
        pinned: The adapter of a promoted version that it uses, None for none.
    """

    def __init__(self, base: Base, pinned: str | None = None) -> None:
        self._base = base
        self._pinned = pinned

    @torch.no_grad()
    def tops(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        top_k: int,
    ) -> Tops:
        """See `Teacher`."""
        return tops_of(self._logits(self._base.rows(prompts, answers)), top_k)

    def _logits(self, rows: Rows) -> torch.Tensor:
        """Return what it says at each token of the answers."""
        return self._base.logits(rows, self._pinned)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        most: int,
        temperature: float,
        seed: int,
    ) -> list[Sampled] | None:
        """See `Teacher`."""
        return self._base.sample(
            prompts, self._pinned, most=most, temperature=temperature, seed=seed
        )

    def follow(self, student: Mapping[str, torch.Tensor]) -> None:
        """See `Teacher`; it holds still."""

    def save(self, folder: Path) -> None:
        """See `Teacher`; there is nothing to keep."""


class Scored(Protocol):
    """What an inference server says of a sequence; no place for its first token."""

    @property
    def indices(self) -> Sequence[Sequence[int]]:
        """The likeliest tokens at each place."""
        ...

    @property
    def tops(self) -> Sequence[Sequence[float]]:
        """Their log probabilities, natural."""
        ...


class Endpoint(Protocol):
    """What scores tokens: `claas.serving.Serving` does, by vLLM's prompt_logprobs."""

    def score(self, ids: Sequence[int], name: str, top_k: int = 0) -> Scored:
        """Return the likeliest tokens at each place of a sequence but the first.

        Args:
            ids: The tokens.
            name: The model.
            top_k: How many.
        """
        ...

    def tokenize(self, name: str, *, text: str) -> Sequence[int]:
        """Return the tokens of a text.

        Args:
            name: The model.
            text: The text.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class RemoteTeacher:
    """A larger model behind an inference server; its tokenizer must be the same.

    That is seen before the first answer: a text of tokens from the whole vocabulary is
    cut in the same way on both sides.

    Args:
        endpoint: The server.
        name: What it calls the model.
        base: The student's base model.
        most: How many tokens the server names at each place.
    """

    def __init__(
        self, endpoint: Endpoint, name: str, base: Base, most: int = _TOPS
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._base = base
        self._most = most
        self._is_known = False

    def tops(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        top_k: int,
    ) -> Tops:
        """See `Teacher`; one request for each answer.

        Args:
            prompts: See `Teacher`.
            answers: See `Teacher`.
            top_k: See `Teacher`; of more than the server names, what it names.

        Raises:
            ConfigurationError: If the server's model has another tokenizer.
            ServingError: If the server refuses, or is not there.
        """
        top_k, many = min(top_k, self._most), len(self._base.tokenizer)
        longest = max(map(len, answers))
        logprobs = torch.full((len(answers), longest, top_k), -torch.inf)
        indices = torch.zeros(len(answers), longest, top_k, dtype=torch.long)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            said = self._asked([*prompt, *answer], top_k)
            first = len(prompt) - 1  # the place that predicts the answer's first token
            for at in range(len(answer)):
                pairs = zip(
                    said.indices[first + at], said.tops[first + at], strict=True
                )
                # a larger model's vocabulary may be padded with more that means nothing
                known = [(token, p) for token, p in pairs if token < many]
                if not known:
                    raise self._other()
                tokens, numbers = zip(*_filled(known, top_k), strict=True)
                indices[row, at] = torch.tensor(tokens)
                logprobs[row, at] = torch.tensor(numbers)
        return Tops(logprobs, indices)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        most: int,
        temperature: float,
        seed: int,
    ) -> list[Sampled] | None:
        """See `Teacher`; it only scores."""
        return None

    def follow(self, student: Mapping[str, torch.Tensor]) -> None:
        """See `Teacher`; it is far away."""

    def save(self, folder: Path) -> None:
        """See `Teacher`; there is nothing to keep."""

    def close(self) -> None:
        """Close the connections to the server."""
        self._endpoint.close()

    def _asked(self, ids: Sequence[int], top_k: int) -> Scored:
        """Return what the server says of tokens, if its tokenizer is ours."""
        try:
            if not self._is_known:
                self._compare()
            said = self._endpoint.score(ids, self._name, top_k)
        except ServingError as exc:
            raise ServingError(
                f"the teacher cannot be asked: {exc} Its settings are those of "
                "'teacher'.",
                exc.status,
            ) from exc
        return said

    def _compare(self) -> None:
        """Refuse a teacher that cuts text in another way."""
        tokenizer = self._base.tokenizer
        many = len(tokenizer)
        text = tokenizer.decode(list(range(0, many, max(1, many // _SHOWN))))
        theirs = self._endpoint.tokenize(self._name, text=text)
        if tuple(theirs) != self._base.encode(text):
            raise self._other()
        self._is_known = True

    def _other(self) -> ConfigurationError:
        return ConfigurationError(
            f"the teacher {self._name!r} has another tokenizer than the base model "
            f"{self._base.name!r}, so its tokens mean something else: set "
            "'teacher.model' to a larger model of the same family."
        )


@dataclass(frozen=True, slots=True)
class Teachability:
    """Whether the model can be taught a feedback by reading it.

    Args:
        is_teachable: Whether to train on it.
        reason: One sentence.
        how: What this was judged by; ``margin`` is the weak one.
        hinted: The share of hinted answers that follow the feedback; for ``margin``
            the mean gain in log probability, nats a token.
        plain: The same without the hint; 0 for ``margin``.
    """

    is_teachable: bool
    reason: str
    how: How
    hinted: float
    plain: float


class Examiner:
    """Looks whether lessons can be taught.

    Args:
        base: The model.
        teacher: Who would teach.
        hints: The templates.
    """

    def __init__(self, base: Base, teacher: Teacher, hints: Hints) -> None:
        self._base = base
        self._teacher = teacher
        self._hints = hints

    def examine(
        self, adapter: str | None, lessons: Sequence[Lesson], settings: TeachSettings
    ) -> list[Teachability]:
        """Return for each lesson whether it can be taught.

        Args:
            adapter: The student, None for the base.
            lessons: The lessons.
            settings: How to look.
        """
        many = settings.samples
        plain = [p for x in lessons for p in [prompt_of(self._base, x)] * many]
        read = [hinted_prompt(self._base, self._hints, x) for x in lessons]
        hinted = [prompt for prompt in read for _ in range(many)]
        how = {"most": settings.tokens, "temperature": settings.temperature}
        taught = self._teacher.sample(hinted, **how, seed=settings.seed)
        told = self._base.sample(plain, adapter, **how, seed=settings.seed)
        found = []
        for at, lesson in enumerate(lessons):
            part = slice(at * many, (at + 1) * many)
            verifier = verifier_of(lesson)
            if verifier is not None and taught is not None:
                found.append(
                    _verified(lesson, verifier, taught[part], told[part], settings)
                )
            else:
                answers = told[part] if taught is None else taught[part]
                pairs = plain[part], hinted[part]
                found.append(self._weighed(lesson, adapter, answers, pairs, settings))
        return found

    def _weighed(
        self,
        lesson: Lesson,
        adapter: str | None,
        answers: Sequence[Sampled],
        prompts: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
        settings: TeachSettings,
    ) -> Teachability:
        """Judge by log probabilities, because there is nothing better."""
        copied = sum(parrots(lesson, answer.text) for answer in answers)
        if 2 * copied > len(answers):
            reason = "the hinted model repeats the feedback instead of following it"
            return Teachability(False, reason, "margin", 0.0, 0.0)
        tokens = [answer.token_ids for answer in answers]
        rows = self._base.rows(prompts[0], tokens)
        student = self._base.logprobs(rows, adapter)
        tops = self._teacher.tops(prompts[1], tokens, _TOPS)
        gain = _gain(student, tops, rows.answers, rows.mask)
        reason = (
            f"nothing can verify this feedback; by log probabilities alone its hint is "
            f"worth {gain:.3f} nats a token (limit {settings.margin})"
        )
        return Teachability(gain > settings.margin, reason, "margin", gain, 0.0)


def prompt_of(base: Base, lesson: Lesson) -> tuple[int, ...]:
    """Return the tokens that a lesson's answer was sampled after.

    Args:
        base: The model.
        lesson: The lesson; what its receipt recorded is preferred.
    """
    receipt = lesson.receipt
    return receipt.prompt_ids or base.prompt(receipt.messages, receipt.tools)


def recorded(base: Base, lesson: Lesson) -> tuple[int, ...]:
    """Return the tokens of the answer that a lesson is about.

    Args:
        base: The model.
        lesson: The lesson.
    """
    return lesson.receipt.token_ids or base.encode(lesson.receipt.text)


def hinted_prompt(base: Base, hints: Hints, lesson: Lesson) -> tuple[int, ...]:
    """Return the tokens of a lesson's prompt with the hint in it.

    Args:
        base: The model.
        hints: The templates.
        lesson: The lesson.
    """
    receipt = lesson.receipt
    return base.prompt(hints.hinted(lesson, receipt.messages), receipt.tools)


def tops_of(logits: torch.Tensor, top_k: int) -> Tops:
    """Return the likeliest tokens of logits, in float32.

    Args:
        logits: [batch, answer, vocabulary].
        top_k: How many; all if there are fewer.
    """
    best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    whole = torch.logsumexp(logits.float(), dim=-1, keepdim=True)
    return Tops(best.values.float() - whole, best.indices)


def _verified(
    lesson: Lesson,
    verifier: Verifier,
    hinted: Sequence[Sampled],
    plain: Sequence[Sampled],
    settings: TeachSettings,
) -> Teachability:
    """Judge by what the model generates."""
    shares = [
        sum(verifier.follows(a.text) and not parrots(lesson, a.text) for a in some)
        / len(some)
        for some in (hinted, plain)
    ]
    with_hint, without = shares
    said = f"{with_hint:.0%} of the hinted answers follow it, {without:.0%} without"
    if without >= settings.known:
        good, reason = False, f"the adapter follows this feedback already: {said}"
    elif with_hint < settings.comply or with_hint <= without:
        good = False
        reason = f"this model cannot follow this feedback in context: {said}"
    else:
        good, reason = True, said
    return Teachability(good, reason, verifier.how, with_hint, without)


def _gain(
    student: torch.Tensor, tops: Tops, tokens: torch.Tensor, mask: torch.Tensor
) -> float:
    """Return how much likelier the teacher finds the tokens, nats a token.

    A token that the teacher does not list has at most the rest of its mass.
    """
    logprobs, indices = tops.logprobs.to(student.device), tops.indices.to(tokens.device)
    hit = indices == tokens[..., None]
    listed = logprobs.masked_fill(~hit, -torch.inf).amax(-1)
    rest = (1 - logprobs.exp().sum(-1)).clamp(min=1e-8).log()
    teacher = torch.where(hit.any(-1), listed, rest)
    return float(((teacher - student) * mask).sum() / mask.sum().clamp(min=1))


def _filled(row: Sequence, size: int) -> list:
    """Return a row of a given length: what is missing repeats its last one."""
    return [*row[:size], *[row[-1]] * (size - len(row))]
