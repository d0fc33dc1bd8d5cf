"""`Intake`: feedback into the ledger and, where it is wanted, an update."""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from claas.errors import LimitError, NotFoundError
from claas.jobs import Job
from claas.patterns import slow_one
from claas.types import Check, Feedback, Receipt
from claas.web.desk import FOREIGN, Desk, new_id
from claas.web.forms import DistillRequest, FeedbackRequest, SaidForm
from claas.web.rating import rated
from claas.web.refusals import Refusal, as_theirs

Given = tuple[str, Feedback]  # an adapter, and what was said about an answer of it


@dataclass(slots=True)
class Intake:
    """Takes feedback.

    Whether there is room is looked at before anything is written, and one request is
    taken at a time: so a request that is refused has left nothing behind.

    Args:
        desk: What it works with.
    """

    desk: Desk
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def feedback(self, user: str, request: FeedbackRequest) -> dict[str, Any]:
        """Take feedback on answers that passed through here.

        Args:
            user: Who sends it.
            request: The feedback.

        Raises:
            ClaasError: If it cannot be taken; then none of it is.
        """
        if len(request.feedback) > (most := self.desk.settings.limits.batch):
            raise LimitError(f"a request may have {most} feedback: send several.")
        await asyncio.to_thread(_refuse_slow, request.feedback)
        async with self._turn:
            given = await asyncio.to_thread(self._given, user, request)
            told = await self._take(user, given, request)
        await rated(self.desk, user, [feedback for _, feedback in given])
        return told

    async def distill(self, user: str, request: DistillRequest) -> dict[str, Any]:
        """Take feedback on an answer that did not pass through here.

        Args:
            user: Who sends it.
            request: The answer and the feedback.

        Raises:
            ClaasError: If it cannot be taken.
        """
        await asyncio.to_thread(_refuse_slow, [request])
        receipt = await self.desk.ask(self._foreign, user, request)
        given = [(receipt.lora, said(user, receipt.id, request))]
        async with self._turn:
            await asyncio.to_thread(self._check, given, request.train)
            await asyncio.to_thread(self._keep, receipt)
            return await self._take(user, given, request)

    async def _take(
        self,
        user: str,
        given: Sequence[Given],
        request: FeedbackRequest | DistillRequest,
    ) -> dict[str, Any]:
        """Write feedback down, and ask for updates."""
        desk = self.desk
        await asyncio.to_thread(self._check, given, request.train)
        news = await asyncio.to_thread(desk.ledger.add_all, user, given)
        rows = []
        for (lora, feedback), is_new in zip(given, news, strict=True):
            told = {"id": feedback.id, "receipt": feedback.receipt, "lora": lora}
            rows.append({**told, "kind": feedback.kind, "is_new": is_new})
            if is_new:
                desk.metrics.count("feedback", feedback.kind)
        loras = dict.fromkeys([lora for lora, _ in given]) if request.train else ()
        jobs = [await desk.jobs.submit(user, lora) for lora in loras]
        return {"object": "feedback", "feedback": rows, "jobs": jobs}

    async def awaited(self, told: dict[str, Any], *, waits: bool) -> dict[str, Any]:
        """Return what was taken, with its jobs as they are; perhaps at their ends.

        Args:
            told: What was taken.
            waits: Whether to wait for the jobs' ends.
        """
        jobs: list[Job] = told["jobs"]
        if waits:
            until = time.monotonic() + self.desk.settings.limits.wait
            jobs = [
                await self.desk.jobs.wait(job.id, max(0.0, until - time.monotonic()))
                for job in jobs
            ]
        return {**told, "jobs": [asdict(job) for job in jobs]}

    # -- in threads ---------------------------------------------------------------

    def _given(self, user: str, request: FeedbackRequest) -> list[Given]:
        """Return feedback with its adapters."""
        found: list[Given] = []
        for form in request.feedback:
            receipt = self.desk.receipt(user, form.receipt)
            _refuse_tokens(receipt)
            lora = self._pupil(user, receipt, form.lora)
            found.append((lora, said(user, receipt.id, form)))
        for lora in dict.fromkeys([lora for lora, _ in found]):
            self.desk.version(user, f"{lora}@latest")  # it may be deleted
        return found

    def _pupil(self, user: str, receipt: Receipt, named: str | None) -> str:
        """Return the adapter that learns: that answered or, of the base, is named."""
        if not (receipt.lora or named):
            raise Refusal(
                f"the base gave the answer {receipt.id}: say which adapter is to learn "
                f"from it, 'lora': '{user}/…'.",
                param="lora",
            )
        lora = self.desk.owned(user, named or receipt.lora)
        if lora.at or receipt.lora not in ("", lora.lora):
            raise Refusal(
                f"{receipt.id} is an answer of {receipt.lora or 'the base'}: name "
                "the adapter that gave it, without a version, or none.",
                param="lora",
            )
        return lora.lora

    def _check(self, given: Sequence[Given], trains: bool) -> None:
        """Refuse what there is no room for."""
        loras = list(dict.fromkeys([lora for lora, _ in given]))
        most = self.desk.settings.limits.feedback
        for lora in loras:
            count = self.desk.ledger.waiting(lora)
            if count + sum(name == lora for name, _ in given) > most:
                raise LimitError(
                    f"{count} feedback of {lora} waits for an update, {most} may: ask "
                    "for an update with an empty queue, or delete the adapter."
                )
        if trains:
            self.desk.jobs.check(*loras)

    def _foreign(self, user: str, request: DistillRequest) -> Receipt:
        """Return the receipt of an answer from elsewhere; the same is the same one.

        It asks the inference server, so it is called before one's turn.
        """
        version = self.desk.version(user, request.model)
        messages = request.messages or [{"role": "prompt", "content": request.prompt}]
        key = [version.lora, messages, request.tools, request.response]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        name = f"{FOREIGN}{digest[:32]}"
        try:
            return self.desk.receipt(user, name)
        except NotFoundError:
            pass
        tokens = prompt_tokens(
            self.desk, request.messages, request.prompt, request.tools
        )
        with as_theirs():
            answer = self.desk.serving.tokenize(
                self.desk.settings.served, text=request.response
            )
        return Receipt(
            id=name,
            user=user,
            lora=version.lora,
            version=version.version or 0,
            messages=tuple(messages),
            prompt_ids=tuple(tokens),
            token_ids=tuple(answer),
            logprobs=(),
            text=request.response,
            tools=tuple(request.tools),
            created=time.time(),
        )

    def _keep(self, receipt: Receipt) -> None:
        """Keep the receipt of an answer from elsewhere, unless it is there."""
        try:
            self.desk.receipt(receipt.user, receipt.id)
        except NotFoundError:
            self.desk.receipts.add(receipt)


def _refuse_tokens(receipt: Receipt) -> None:
    """Refuse feedback on an answer whose prompt came as tokens: a hint is words."""
    for message in receipt.messages:
        if message.get("role") == "prompt" and not isinstance(message["content"], str):
            raise Refusal(
                f"the prompt of {receipt.id} came as tokens, and the teacher has to "
                "read the feedback in its words: send prompts as text.",
                param="receipt",
            )


def _refuse_slow(forms: Iterable[SaidForm]) -> None:
    """Refuse checks whose patterns take too long to be looked for."""
    checks = [form.check for form in forms if form.check is not None]
    slow = slow_one(text for c in checks for text in (c.required, c.forbidden) if text)
    if slow is not None:
        raise Refusal(
            f"the pattern {slow[:80]!r} takes too long on ordinary text: write it "
            "without repeats inside of repeats, as in '(a+)+', or send fewer at once.",
            param="check",
        )


def said(user: str, receipt_id: str, form: SaidForm) -> Feedback:
    """Return the feedback that a form has; its id is the user's own.

    Args:
        user: Who says it.
        receipt_id: What it is about.
        form: The form.
    """
    check = None
    if (told := form.check) is not None:
        prompts = tuple(told.prompts)
        check = Check(told.required, told.forbidden, told.most_words, prompts)
    return Feedback(
        id=f"{user}/{form.id or new_id('')}",
        receipt=receipt_id,
        kind=form.kind,
        content=form.content,
        score=form.score,
        created=time.time(),
        check=check,
    )


def prompt_tokens(
    desk: Desk, messages: Any, prompt: Any, tools: Sequence[Any] = ()
) -> list[int]:
    """Return the tokens before an answer; synchronous, it asks the inference server.

    Args:
        desk: What knows the server.
        messages: The conversation, or None.
        prompt: A text or tokens, where there is no conversation.
        tools: The tools that the model may call in the conversation.

    Raises:
        ServingError: If the server refuses, or is not there.
        Refusal: If there are none.
    """
    name = desk.settings.served
    if isinstance(prompt, list):
        return prompt
    is_chat = messages is not None
    with as_theirs():
        found = desk.serving.tokenize(
            name, text=prompt, messages=messages, tools=tools, special=not is_chat
        )
    if not found:
        raise Refusal("there is nothing before the answer.", param="prompt")
    return found
