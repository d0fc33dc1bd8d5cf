"""`AdapterParameter`: the weights behind an alias; `AdapterOptimizer` teaches them.

A CLaaS server stands in front of the model and remembers every answer under its id.
A step sends what a backward pass left on the parameter: for each answer, in what way it
was wrong, or right. The server trains, tests and promotes a new version of the adapter,
or says why not; the alias serves the promoted one from then on. So one backward pass
can improve prompts (another optimizer's step), weights, or both.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inf_engine.clients.transport import AiohttpTransport, Transport
from inf_engine.errors import (
    ConfigurationError,
    ParameterValueError,
    TrainingError,
    UsageError,
)
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.proposals import Proposal
from inf_engine.optimization.search import Search
from inf_engine.parameter import Parameter

_LONGEST = 300  # characters of an error's text


class AdapterParameter(Parameter):
    """The weights behind an alias: a LoRA adapter that a CLaaS server trains.

    Its value is the alias and stays; what changes is the version that answers there.
    One parameter may be the alias of several `LLMInference`.

    Args:
        alias: The alias; the model of its endpoint is an adapter, ``user/model``.
        description: What the model is to become good at.
        requires_grad: Whether feedback may train it.

    Example:
        >>> weights = AdapterParameter("tuned")
        >>> weights.value
        'tuned'
    """

    is_text: ClassVar[bool] = False
    is_weights: ClassVar[bool] = True

    def __init__(
        self, alias: str, description: str = "", *, requires_grad: bool = True
    ) -> None:
        self._alias: str | None = None
        super().__init__(alias, description, requires_grad=requires_grad)
        self._alias = self.value

    @property
    def choices(self) -> tuple[Any, ...]:
        """The one value that it may have."""
        return (self.value,)

    def _checked(self, value: Any) -> Any:
        alias = super()._checked(value)
        if self._alias not in (None, alias):
            raise ParameterValueError(
                f"{self._label()} is the adapter behind {self._alias!r}, and stays it: "
                "for another alias make another AdapterParameter."
            )
        return alias

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"AdapterParameter({self._value!r}{frozen})"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is said of one answer.

    Args:
        receipt: The id of the answer.
        kind: ``critique``, ``correction`` (the content is the right answer) or
            ``praise``.
        content: The words.
        score: The score of the run, from 0 to 1, None without one.
        check: How the server can see whether an answer follows it, if that can be said.
    """

    receipt: str
    kind: str
    content: str
    score: float | None = None
    check: Mapping[str, Any] | None = None

    @property
    def form(self) -> dict[str, Any]:
        """The lesson as it is sent; the same one, check and all, has the same id."""
        said: dict[str, Any] = {
            "receipt": self.receipt,
            "kind": self.kind,
            "content": self.content,
        }
        more: dict[str, Any] = {"check": dict(self.check)} if self.check else {}
        key = json.dumps([*said.values(), *more.values()], sort_keys=True)
        if self.score is not None:
            more["score"] = min(1.0, max(0.0, self.score))
        return {**said, **more, "id": hashlib.sha256(key.encode()).hexdigest()[:32]}


@dataclass(frozen=True, slots=True)
class AdapterUpdate:
    """What came of a step for one adapter.

    Args:
        lora: The adapter, ``user/model``.
        state: ``promoted``, ``rejected``, ``unteachable``, ``failed``, ``empty`` if
            nothing waited, or ``running`` if it had not ended when the server stopped
            waiting.
        version: The version that was made, None if none was.
        reasons: Why, in words.
        figures: What was measured, in ``training`` and by the ``gate``, each by name.
        job: The id of the job, for ``GET /v1/jobs/{id}``.
    """

    lora: str
    state: str
    version: int | None = None
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""


@dataclass(frozen=True, slots=True)
class AdapterStep:
    """What a step of an `AdapterOptimizer` did.

    Args:
        number: Its number, from 0.
        lessons: What was sent.
        untaught: How many notes had no answer that the server knows: of calls that
            failed, or of a node that another alias answered.
        updates: What came of it, for each adapter.
    """

    number: int
    lessons: tuple[Lesson, ...] = ()
    untaught: int = 0
    updates: tuple[AdapterUpdate, ...] = ()

    @property
    def is_promoted(self) -> bool:
        """Whether a new version of an adapter serves."""
        return any(update.state == "promoted" for update in self.updates)


class AdapterOptimizer(Optimizer):
    """Sends what a backward pass left on `AdapterParameter`s to a CLaaS server.

    Args:
        params: Parameters, or groups of them; those that are no adapters are left
            alone, so ``module.parameters()`` will do.
        url: The server, such as ``http://127.0.0.1:8080``.
        api_key_env: The environment variable with the key for it.
        high: The score of an answer that needs no change; it is sent as praise.
        seconds: The longest wait for an update.
        check: How the server can see whether an answer follows what is said, as its
            ``/v1/feedback`` takes it, such as ``{"required": "kuro"}`` (a regular
            expression); without one it goes by words that the feedback adds and by log
            probabilities. The same words with another check are another lesson.
        transport: What carries the requests; None for aiohttp.

    Raises:
        UsageError: If there is no `AdapterParameter`.

    Example:
        ``await losses.backward()``, then ``step = await optimizer.step()``;
        ``step.updates[0].state`` is ``"promoted"`` if a better version serves now.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        url: str,
        api_key_env: str = "CLAAS_API_KEY",
        high: float = 1.0,
        seconds: float = 1800.0,
        check: Mapping[str, Any] | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(params, high=high)
        self.url = url.rstrip("/")
        self.api_key_env = api_key_env
        self.seconds = seconds
        self.check = check
        self._transport = transport
        if not any(self._changes(held.parameter) for held in self._held):
            raise UsageError(
                "AdapterOptimizer got no AdapterParameter: make one the alias of a "
                "call, LLMInference(AdapterParameter('tuned'))."
            )

    @property
    def adapters(self) -> list[Parameter]:
        """The adapters that may be trained, on which notes wait."""
        return [held.parameter for held in self._trainable().values()]

    async def step(self) -> AdapterStep:  # ty: ignore[incompatible-method-override]
        """Send the notes that wait on the adapters, and wait for the updates.

        The notes are dropped once the server has them. The same lesson is not learnt
        twice, so a step that failed half-way can be made again.

        Raises:
            TrainingError: If the server refuses. The notes stay.
            EndpointError: If it cannot be reached or does not answer in time. The notes
                stay.
            ConfigurationError: If the key's variable is empty.
        """
        waiting = self.adapters
        notes = [note for parameter in waiting for note in parameter.feedback]
        lessons = lessons_of(notes, self.high)
        taught = {lesson.receipt for lesson in lessons}
        lost = sum(not taught & {e.answer for e in note.evidence} for note in notes)
        step = await self.teach(lessons)
        for parameter in waiting:
            parameter.zero_feedback()
        return replace(step, untaught=lost)

    async def teach(self, lessons: Sequence[Lesson]) -> AdapterStep:
        """Send lessons, and wait for the updates; without any nothing is sent.

        Args:
            lessons: What is said of answers, as `lessons_of` makes it of notes; one
                without a check gets the optimizer's. The notes that wait on the
                adapters are left alone.

        Raises:
            TrainingError: If the server refuses.
            EndpointError: If it cannot be reached or does not answer in time.
            ConfigurationError: If the key's variable is empty.
        """
        lessons = [
            lesson if lesson.check is not None else replace(lesson, check=self.check)
            for lesson in lessons
        ]
        told = await self._send(lessons) if lessons else {}
        self.steps += 1
        updates = [_update_of(job) for job in told.get("jobs", ())]
        return AdapterStep(self.steps - 1, tuple(lessons), 0, tuple(updates))

    async def propose(self, *args: Any, **kwargs: Any) -> Proposal:
        """Refuse: weights are not proposed as text.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "AdapterOptimizer proposes no texts: call step(), and the server trains."
        )

    async def search(self, search: Search) -> None:
        """Refuse: an update is tested by the server's gate.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "AdapterOptimizer has no search: call backward() and step() in a loop of "
            "your own, the server's gate tests each update."
        )

    def _changes(self, parameter: Parameter) -> bool:
        return parameter.is_weights

    async def _send(self, lessons: Sequence[Lesson]) -> dict[str, Any]:
        """Post the lessons; return the server's answer."""
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise ConfigurationError(
                f"there is no key for {self.url}: set {self.api_key_env}."
            )
        body = {"feedback": [lesson.form for lesson in lessons], "wait": True}
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {key}",
        }
        url, transport = f"{self.url}/v1/feedback", self._transport
        carrier = AiohttpTransport() if transport is None else transport
        try:
            sent = json.dumps(body).encode()
            answer = await carrier.send(url, headers, sent, self.seconds)
        finally:
            if transport is None:
                await carrier.aclose()
        return _read(answer.status, answer.body, url)


def lessons_of(notes: Iterable[Note], high: float = 1.0) -> list[Lesson]:
    """Return what notes say of each answer, each said once, in order.

    Where the output of the call was the output of the run and it is known what that
    should have been, the right answer is the lesson; else the words are.

    Args:
        notes: Notes with evidence.
        high: The score of an answer that needs no change.
    """
    found: dict[tuple[str, str, str], Lesson] = {}
    for note in notes:
        for evidence in note.evidence:
            lesson = _lesson(note, evidence, high)
            if lesson is not None:
                key = (lesson.receipt, lesson.kind, lesson.content)
                found.setdefault(key, lesson)
    return list(found.values())


def _lesson(note: Note, evidence: Evidence, high: float) -> Lesson | None:
    """What a note says of one answer, None if it says nothing of any."""
    if not evidence.answer:
        return None
    if note.score is not None and note.score >= high:
        return Lesson(evidence.answer, "praise", note.content, note.score)
    if evidence.target and evidence.output == evidence.final:
        return Lesson(evidence.answer, "correction", evidence.target, note.score)
    if not note.content.strip():
        return None
    return Lesson(evidence.answer, "critique", note.content, note.score)


def _read(status: int, body: bytes, url: str) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        TrainingError: If the server refused, or it is none.
    """
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if status in (200, 202) and isinstance(told, dict):
        return told
    error = told.get("error") if isinstance(told, dict) else None
    why = error.get("message", "") if isinstance(error, dict) else ""
    raise TrainingError(
        f"{url} answered {status}: {why[:_LONGEST] or 'no CLaaS server speaks there'}. "
        "The feedback waits on the parameters; mend that and call step() again."
    )


def _update_of(job: Mapping[str, Any]) -> AdapterUpdate:
    """What a job of the server tells."""
    result = job.get("result") or {}
    verdict, untaught = result.get("verdict") or {}, result.get("untaught") or {}
    state = str(job.get("state", ""))
    if state == "done":
        state = str(result.get("outcome", state))
    elif state != "failed":
        state = "running"
    told = (job.get("why"), result.get("error"), *verdict.get("reasons", ()))
    reasons = dict.fromkeys(str(why) for why in (*told, *untaught.values()) if why)
    figures = {"training": result.get("figures"), "gate": verdict.get("figures")}
    return AdapterUpdate(
        lora=str(job.get("lora", "")),
        state=state,
        version=result.get("version"),
        reasons=tuple(reasons),
        figures={name: known for name, known in figures.items() if known},
        job=str(job.get("id", "")),
    )
