"""`Chat`: a module as a model of OpenAI's chat completions.

The text of the last user message is the module's input; a module whose forward has one
parameter named ``messages`` gets all of them, as dicts. Images in it stay in it: a text
with images (`MixedText`) hands them on in f-strings. The output is the answer: a text
as it is, anything else as JSON.

With ``stream`` the text is sent as the model writes it where the output is the text of
one model call, which cannot be taken back; any other output comes as one piece.

What the pipeline decides itself (temperature, max_tokens and the like) is passed over.
What would change the form of the answer (n, tools, logprobs, ...) is refused.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from inf_engine.errors import UsageError
from inf_engine.images import Image
from inf_engine.serving.exchange import Refused, Reply, Request, failed
from inf_engine.serving.runs import ServedRun
from inf_engine.serving.service import Service, written
from inf_engine.template import joined

_ONLY = {"n": 1, "logprobs": False, "tools": [], "functions": [], "audio": None}
_ADDRESSES = ("http://", "https://", "data:")
_PLAIN = ({"type": "text"}, None)


class Chat:
    """Answers chat completions.

    Args:
        service: Runs the module.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._begun = int(time.time())

    @property
    def model(self) -> dict[str, Any]:
        """The module as OpenAI lists a model."""
        return {
            "id": self._service.name,
            "object": "model",
            "created": self._begun,
            "owned_by": "inf-engine",
        }

    async def complete(self, request: Request) -> Reply:
        """Answer ``POST /v1/chat/completions``.

        Args:
            request: As OpenAI describes it.

        Raises:
            Refused: If it asks for what is not there, or the run fails.
        """
        fields = request.fields()
        self._check(fields)
        streams = fields.get("stream") is True
        run = self._service.begin(self._args(fields.get("messages")), tokens=streams)
        headers = {"x-run": run.name}
        if streams:
            events = self._events(run, _wants_usage(fields))
            started = _Started(await anext(events), events)
            return Reply(started, kind="text/event-stream", headers=headers)
        text = text_of(await self._service.output(run))
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = self._body(run, "chat.completion", {**choice, "logprobs": None})
        return Reply(written({**body, "usage": usage_of(run)}), headers=headers)

    def _check(self, fields: dict[str, Any]) -> None:
        """Refuse what the answer could not be."""
        if fields.get("model") != self._service.name:
            raise Refused(
                f"there is no such model; there is {self._service.name!r}.",
                404,
                code="model_not_found",
                param="model",
            )
        for name, only in _ONLY.items():
            if fields.get(name) not in (only, None):
                raise _unsupported(name)
        if fields.get("response_format") not in _PLAIN:
            raise _unsupported("response_format")

    def _args(self, messages: Any) -> tuple[Any, ...]:
        """Return the inputs of the module."""
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise Refused(
                "messages is a list of {role, content} with texts as contents.",
                param="messages",
            )
        if self._service.shape.names == ["messages"]:
            return ([{"role": m["role"], "content": _text(m)} for m in messages],)
        asked = [message for message in messages if message["role"] == "user"]
        if not asked:
            raise Refused("messages has no user message.", param="messages")
        return self._service.row(_text(asked[-1]), "messages")

    async def _events(
        self, run: ServedRun, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream; leaving it cancels the run."""
        first: dict[str, Any] = {"role": "assistant"}
        given = False
        try:
            assert run.live is not None
            live = run.live
            async with contextlib.aclosing(live.pieces()) as pieces:
                async for piece in pieces:
                    given = True
                    yield self._chunk(run, {**first, "content": piece})
                    first = {}
            rest = live.rest(text_of(await live.output()))
            given = True
            if rest or first:
                yield self._chunk(run, {**first, "content": rest})
            self._service.runs.end(run)
            yield self._chunk(run, {}, "stop")
            if with_usage:
                body = {**self._body(run, "chat.completion.chunk"), "choices": []}
                yield _event({**body, "usage": usage_of(run)})
            yield b"data: [DONE]\n\n"
        except Exception as exc:
            refused = exc if isinstance(exc, Refused) else failed(exc, run.name)
            if not given:
                raise refused from exc
            yield _event(refused.body)
        finally:
            if run.live is not None:
                run.live.cancel(asyncio.CancelledError("its reader left"))
            self._service.runs.end(run)

    def _chunk(
        self, run: ServedRun, delta: dict[str, Any], reason: str | None = None
    ) -> bytes:
        """Return an event with a piece of the answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _event(self._body(run, "chat.completion.chunk", choice))

    def _body(
        self, run: ServedRun, kind: str, choice: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return what every part of an answer carries."""
        return {
            "id": f"chatcmpl-{run.name}",
            "object": kind,
            "created": int(run.began),
            "model": self._service.name,
            "choices": [] if choice is None else [choice],
        }


def text_of(output: Any) -> str:
    """Return an output as text: a text as it is, anything else as JSON.

    Args:
        output: What a module gave.

    Raises:
        Refused: If JSON cannot carry it.
    """
    return output if type(output) is str else written(output).decode()


def usage_of(run: ServedRun) -> dict[str, Any]:
    """Return the tokens of a run as OpenAI tells them.

    Args:
        run: The run.
    """
    usage = run.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class _Started:
    """Events of which the first has come, so that what failed before has a status."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        self._first, self._events = first, events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        async for event in self._events:
            yield event

    async def aclose(self) -> None:
        """End the events, also if nobody has asked for the first one."""
        await self._events.aclose()


def _wants_usage(fields: dict[str, Any]) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    return isinstance(message.get("content"), (str, list))


def _text(message: dict[str, Any]) -> str:
    """Return the text of a message, which holds its images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return joined([_part(part) for part in content])


def _part(part: Any) -> str | Image:
    """Return a text or an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    given = part.get("image_url") if kind == "image_url" else None
    address = given.get("url") if isinstance(given, dict) else None
    if not isinstance(address, str) or not address.startswith(_ADDRESSES):
        raise Refused(
            "a part of a message is a text, or an image_url with the address of an "
            "image: https://... or data:image/png;base64,...",
            param="messages",
        )
    try:
        return Image(address)
    except UsageError as exc:
        raise Refused(str(exc), param="messages") from exc


def _unsupported(name: str) -> Refused:
    return Refused(
        f"{name} is not supported: the pipeline answers with one text. Leave it out.",
        code="unsupported_parameter",
        param=name,
    )
