"""`Service`: requests into answers to make."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from butterfly.api.calls import CallReader
from butterfly.api.generation import Job, Piece, merged, run
from butterfly.api.grammar import Grammar, grammar_of
from butterfly.api.refusals import Refusal
from butterfly.api.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from butterfly.api.text import TextStream
from butterfly.api.tokenizer import Tokenizer
from butterfly.cluster.head import Head
from butterfly.errors import ClusterError
from butterfly.monitoring.metrics import Metrics
from butterfly.scheduling import Sequence as Sequence_


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoints work with.

    Args:
        head: Who makes answers.
        tokenizer: What makes tokens of texts.
        metrics: What counts.
        name: What the model is called.
    """

    head: Head
    tokenizer: Tokenizer
    metrics: Metrics
    name: str

    def adapter(self, model: str | None) -> int:
        """Return the number of the adapter that a model's name means, 0 for none.

        Args:
            model: The name, None for the model itself.

        Raises:
            Refusal: If there is no such model.
        """
        if model in (None, "", self.name):
            return 0
        known = self.head.adapters.by_name
        if model in known:
            return known[model].number
        names = ", ".join(map(repr, [self.name, *known]))
        raise Refusal(
            f"there is no model {model!r} here: use {names}.",
            status=404,
            param="model",
            code="model_not_found",
        )

    def must_serve(self) -> None:
        """Refuse requests while nobody could answer them.

        Raises:
            ClusterError: If that is so.
        """
        head = self.head
        if head.is_asleep:
            raise ClusterError("the model is asleep: POST /wake_up first.")
        if head.trouble:
            raise ClusterError(head.trouble)
        if not head.is_serving and not (head.epoch and head.members):
            raise ClusterError(
                f"{head.lacks or 'the layers are loading'}: "
                "wait, or start more with `butterfly node --join`."
            )

    async def chat(self, request: ChatRequest) -> list[Job]:
        """Return the answers to a conversation.

        Args:
            request: What was asked.

        Raises:
            RequestError: If it cannot be answered.
        """
        self._check(request)
        box = request.toolbox()
        tokens = self.tokenizer.chat(
            request.messages,
            begins=request.add_generation_prompt,
            goes_on=request.continue_final_message,
            more=request.chat_template_kwargs,
            tools=box,
        )
        jobs = await self._jobs(request, [tokens], request.limit)
        if box is not None:
            for job in jobs:
                job.reader = CallReader(box.chosen, is_single=box.is_single)
                job.tells_calls = box.choice != "named"
        return jobs

    async def completions(self, request: CompletionRequest) -> list[Job]:
        """Return the answers to prompts.

        Args:
            request: What was asked.

        Raises:
            RequestError: If it cannot be answered.
        """
        self._check(request)
        prompts, texts = [], []
        for given in request.prompts:
            if isinstance(given, str):
                special = request.add_special_tokens
                prompts.append(self.tokenizer.encode(given, special=special))
                texts.append(given)
            else:
                self.tokenizer.check(given, "prompt")
                prompts.append(list(given))
                texts.append(self.tokenizer.decode(given) if request.echo else "")
        told = request.prompt_logprobs is not None or (
            bool(request.echo) and request.logprobs is not None
        )
        jobs = await self._jobs(request, prompts, request.limit, told=told)
        for job in jobs:
            job.echo = texts[job.index // request.count] if request.echo else None
        return jobs

    def pieces(self, jobs: Sequence[Job]) -> AsyncGenerator[Piece, None]:
        """Give answers in pieces, as they come; leaving the loop ends them.

        Args:
            jobs: The answers.
        """
        ends = self.tokenizer.ends
        streams = [run(self.head, job, self.metrics, ends) for job in jobs]
        return streams[0] if len(streams) == 1 else merged(streams)

    def _check(self, request: GenerationRequest) -> None:
        request.check()
        self.adapter(request.model)
        self.tokenizer.check(list(request.logit_bias or ()), "logit_bias")
        self.must_serve()

    async def _jobs(
        self,
        request: GenerationRequest,
        prompts: Sequence[list[int]],
        limit: int | None,
        *,
        told: bool | None = None,
    ) -> list[Job]:
        """Return an answer for each prompt and each of the `n` samplings."""
        rules = await self._rules(request, len(prompts) * request.count)
        told = request.prompt_logprobs is not None if told is None else told
        most = self.head.options.positions if limit is None else limit
        jobs: list[Job] = []
        for prompt in prompts:
            first: Job | None = None  # the one whose frames score the prompt
            for sampling in request.samplings():
                sequence = Sequence_(
                    prompt,
                    max(1, most),
                    sampling,
                    self._stops(request, bool(rules)),
                    -request.priority,
                    self.adapter(request.model),
                    told and first is None,
                    penalties=request.penalties(),
                )
                if rules:
                    sequence.constraint = rules[len(jobs)]
                text = self._text(request, prompt)
                job = Job(len(jobs), sequence, text, is_silent=most == 0)
                if told and first is not None:
                    job.first, job.prompt = first, first.prompt
                jobs.append(job)
                first = first or job
        self.head.check(*[job.sequence for job in jobs])
        return jobs

    def _stops(self, request: GenerationRequest, is_ruled: bool) -> frozenset[int]:
        """Return the tokens that end an answer; one with a form always may end."""
        ends = (
            frozenset() if request.ignore_eos and not is_ruled else self.tokenizer.ends
        )
        return ends | frozenset(request.stop_token_ids or ())

    def _text(self, request: GenerationRequest, prompt: list[int]) -> TextStream:
        skips, decode = request.skip_special_tokens, self.tokenizer.decode
        return TextStream(
            lambda tokens: decode(tokens, skip_special=skips),
            prompt,
            request.stops,
            keeps_stop=request.include_stop_str_in_output,
        )

    async def _rules(self, request: GenerationRequest, count: int) -> list[Grammar]:
        """Return what keeps each answer in the form that was asked for."""
        box, is_tagged = request.toolbox(), self.tokenizer.is_tagged
        text = grammar_of(request.response_format, box, is_tagged=is_tagged)
        if not text:
            return []
        native = self.tokenizer.native
        param = "tools" if box and box.must_call else "response_format"
        return await asyncio.to_thread(
            lambda: [Grammar(native, text, param) for _ in range(count)]
        )
