"""Answers as OpenAI writes them, with the fields that vLLM adds."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from butterfly.api.calls import Call
from butterfly.api.generation import Chance, Job, Piece
from butterfly.api.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from butterfly.api.tokenizer import Tokenizer
from butterfly.engine.sampling import Logprob

_LEAST = -9999.0  # instead of minus infinity, which JSON does not have


@dataclass(slots=True)
class Answer:
    """What came of one answer.

    Args:
        text: Its text.
        tokens: Its tokens.
        chances: How probable they were.
        finish: Why it ended.
        stop: The text or the token that ended it.
        calls: The functions to be called.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    chances: list[Chance] = field(default_factory=list)
    finish: str = ""
    stop: str | int | None = None
    calls: list[Call] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take a part of it.

        Args:
            piece: The part.
        """
        self.text += piece.text
        self.tokens += piece.tokens
        self.chances += piece.chances
        self.calls += piece.calls
        self.finish, self.stop = piece.finish, piece.stop


class Form:
    """How the answers to one request are written.

    Args:
        request: What was asked.
        jobs: The answers.
        tokenizer: What says what tokens stand for.
        name: What the model is called.
        epoch: The number of the epoch that it began in.
    """

    prefix = kind = chunk_kind = ""

    def __init__(
        self,
        request: GenerationRequest,
        jobs: Sequence[Job],
        tokenizer: Tokenizer,
        name: str,
        epoch: int,
    ) -> None:
        self.jobs, self.tokenizer, self.epoch = list(jobs), tokenizer, epoch
        self.answers = [Answer() for _ in jobs]
        self.asked = request
        self._head = {
            "id": self.prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": request.model or name,
        }

    def take(self, piece: Piece) -> None:
        """Take a part of an answer.

        Args:
            piece: The part.
        """
        self.answers[piece.index].add(piece)

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunks that begin a stream."""
        return []

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk for a part of an answer; None if there is nothing to say.

        Args:
            piece: The part; it was taken before.
        """
        raise NotImplementedError

    def whole(self) -> dict[str, Any]:
        """Return the response with all answers."""
        body = self._body(self.kind)
        body["choices"] = [self._choice(*pair) for pair in enumerate(self.answers)]
        body["usage"] = self.usage()
        if self.asked.butterfly:
            body["butterfly"] = self.extension()
        return body

    def closing(self) -> dict[str, Any] | None:
        """Return the chunk that ends a stream, if one was asked for."""
        body: dict[str, Any] = {**self._body(self.chunk_kind), "choices": []}
        if self.asked.has_usage:
            body["usage"] = self.usage()
        if self.asked.butterfly:
            body["butterfly"] = self.extension()
        return body if self.asked.has_usage or self.asked.butterfly else None

    def usage(self) -> dict[str, Any]:
        """Return how many tokens there were; a prompt counts once."""
        firsts = [job.sequence for job in self.jobs[:: self.asked.count]]
        prompt = sum(len(sequence.prompt) for sequence in firsts)
        drawn = sum(len(answer.tokens) for answer in self.answers)
        reused = sum(sequence.reused for sequence in firsts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": drawn,
            "total_tokens": prompt + drawn,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def extension(self) -> dict[str, Any]:
        """Return what the stages did for each answer."""
        traces = [job.trace.body() for job in self.jobs]
        return {"epoch": self.epoch, "answers": traces}

    # -- inside -----------------------------------------------------------------

    def _body(self, kind: str) -> dict[str, Any]:
        return {"id": self._head["id"], "object": kind, **self._head}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        raise NotImplementedError

    def _is_silent(self, piece: Piece) -> bool:
        """Say whether a chunk of a piece would be empty."""
        told = self.asked.return_token_ids or self.asked.chances is not None
        return not (piece.text or piece.finish or piece.calls or told)

    def _start(self, kind: str) -> dict[str, Any]:
        body = self._body(kind)
        if self.asked.has_usage:
            body["usage"] = None
        return body

    def _ends(self, answer: Answer | Piece) -> dict[str, Any]:
        stop = answer.stop
        return {"finish_reason": answer.finish or None, "stop_reason": stop}

    def _name(self, token: int) -> str:
        return self.tokenizer.piece(token).decode("utf-8", "replace")

    def _prompt_logprobs(self, job: Job) -> list[dict[str, Any] | None]:
        """Return how probable the tokens of a prompt were, as vLLM writes it."""
        most = self.asked.prompt_logprobs or 0
        found: list[dict[str, Any] | None] = []
        for told in job.prompt:
            if told is None:
                found.append(None)
                continue
            top = [(t, p, n) for n, (t, p) in enumerate(told.top[:most], 1)]
            rows = {t: (p, n) for t, p, n in [*top, _own(told)]}
            found.append(
                {
                    str(token): {
                        "logprob": max(logprob, _LEAST),
                        "rank": rank,
                        "decoded_token": self._name(token),
                    }
                    for token, (logprob, rank) in rows.items()
                }
            )
        return found


class ChatForm(Form):
    """How the answers to a conversation are written."""

    prefix = "chatcmpl-"
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    asked: ChatRequest

    def opening(self) -> list[dict[str, Any]]:
        """Return the chunks that begin a stream: whose turn it is."""
        return [self._opening(index) for index in range(len(self.jobs))]

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk for a part of an answer; None if there is nothing to say.

        Args:
            piece: The part; it was taken before.
        """
        if self._is_silent(piece):
            return None
        is_plain = not piece.finish and not piece.calls
        delta: dict[str, Any] = {}
        if piece.text or is_plain:
            delta["content"] = piece.text
        if piece.calls:
            first = len(self.answers[piece.index].calls) - len(piece.calls)
            delta["tool_calls"] = [
                {"index": n, **_called(call)}
                for n, call in enumerate(piece.calls, first)
            ]
        choice: dict[str, Any] = {
            "index": piece.index,
            "delta": delta,
            "logprobs": self._logprobs(piece.chances),
            **self._ends(piece),
        }
        if self.asked.return_token_ids:
            choice["token_ids"] = list(piece.tokens)
        return {**self._start(self.chunk_kind), "choices": [choice]}

    def whole(self) -> dict[str, Any]:
        """Return the response with all answers."""
        body = super().whole()
        if self.asked.prompt_logprobs is not None:
            body["prompt_logprobs"] = self._prompt_logprobs(self.jobs[0])
        if self.asked.return_token_ids:
            body["prompt_token_ids"] = self.jobs[0].sequence.prompt
        return body

    def _opening(self, index: int) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        body = {**self._start(self.chunk_kind), "choices": [choice]}
        if self.asked.return_token_ids and not index:
            body["prompt_token_ids"] = self.jobs[0].sequence.prompt
        return body

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer.text or (None if answer.calls else ""),
            "refusal": None,
        }
        if answer.calls:
            message["tool_calls"] = [_called(call) for call in answer.calls]
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.chances),
            **self._ends(answer),
        }
        if self.asked.return_token_ids:
            choice["token_ids"] = answer.tokens
        return choice

    def _logprobs(self, chances: Sequence[Chance]) -> dict[str, Any] | None:
        most = self.asked.chances
        if most is None:
            return None
        content = [
            {
                **self._row(told.token, told.logprob),
                "top_logprobs": [self._row(*pair) for pair in told.top[:most]],
            }
            for _, told in chances
            if told is not None
        ]
        return {"content": content, "refusal": None}

    def _row(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self.tokenizer.piece(token)
        return {
            "token": self._name(token),
            "logprob": max(logprob, _LEAST),
            "bytes": list(piece),
        }


class CompletionForm(Form):
    """How the answers to prompts are written."""

    prefix = "cmpl-"
    kind = chunk_kind = "text_completion"
    asked: CompletionRequest

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._offsets = [0] * len(self.jobs)  # where the next token of a stream begins

    def chunk(self, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk for a part of an answer; None if there is nothing to say.

        Args:
            piece: The part; it was taken before.
        """
        if self._is_silent(piece):
            return None
        answer, offset = self.answers[piece.index], self._offsets[piece.index]
        if self.asked.chances is not None:
            size = sum(len(self._name(token)) for token, _ in piece.chances)
            self._offsets[piece.index] += size
        choice: dict[str, Any] = {
            "index": piece.index,
            "text": piece.text,
            "logprobs": self._logprobs(piece.chances, offset),
            **self._ends(piece),
        }
        if self.asked.return_token_ids:
            choice["token_ids"] = list(piece.tokens)
            is_first = len(answer.tokens) == len(piece.tokens)
            prompt = self.jobs[piece.index].sequence.prompt
            choice["prompt_token_ids"] = prompt if is_first else None
        return {**self._start(self.chunk_kind), "choices": [choice]}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        job = self.jobs[index]
        choice: dict[str, Any] = {
            "index": index,
            "text": answer.text,
            "logprobs": self._logprobs(answer.chances, 0),
            **self._ends(answer),
        }
        if self.asked.prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs(job)
        if self.asked.return_token_ids:
            choice["token_ids"] = answer.tokens
            choice["prompt_token_ids"] = job.sequence.prompt
        return choice

    def _logprobs(
        self, chances: Sequence[Chance], offset: int
    ) -> dict[str, Any] | None:
        most = self.asked.chances
        if most is None:
            return None
        names, values, tops, offsets = [], [], [], []
        for token, told in chances:
            names.append(self._key(token))
            offsets.append(offset)
            offset += len(self._name(token))
            values.append(None if told is None else max(told.logprob, _LEAST))
            tops.append(None if told is None else self._tops(told, most))
        return {
            "tokens": names,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _tops(self, told: Logprob, most: int) -> dict[str, float]:
        pairs = [*told.top[:most], (told.token, told.logprob)]
        return {self._key(token): max(value, _LEAST) for token, value in pairs}

    def _key(self, token: int) -> str:
        """Return what a token is called where no other may be called the same."""
        piece = self.tokenizer.piece(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:  # as OpenAI writes a part of a character
            return "bytes:" + "".join([f"\\x{byte:02x}" for byte in piece])


def _called(call: Call) -> dict[str, Any]:
    body = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": body}


def _own(told: Logprob) -> tuple[int, float, int]:
    return told.token, told.logprob, told.rank
