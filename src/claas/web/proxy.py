"""`Proxy`: completions through to the inference server, each with a receipt.

An answer is never withheld because its receipt cannot be kept: it then has none, which
is logged and counted. A version that the server does not know is loaded and asked
again: the server may have been started anew.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from butterfly.web.leaving import unless_gone
from claas.errors import ServingError
from claas.serving import refused, said_in, unreachable
from claas.web.answers import Answers, Asked
from claas.web.desk import Desk, Target, new_id
from claas.web.refusals import THEIRS, Refusal, body_of

RECEIPT = "x-claas-receipt"
"""The header with the id of the receipt."""

_GONE = 499  # what nginx logs when a client left; nobody reads it
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_BREAK = re.compile(rb"\r?\n\r?\n|\r\r")  # between two events


class Proxy:
    """Passes completions through.

    Args:
        desk: What it works with.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def answer(self, http: Request, path: str) -> Response:
        """Answer a request, as a whole or as a stream.

        A client that leaves ends its answers.

        Args:
            http: The request.
            path: Where the inference server takes it.

        Raises:
            ClaasError: If it cannot be answered.
        """
        is_chat = path.endswith("chat/completions")
        asked = Asked(parsed(await http.body()), is_chat)
        model = asked.body.get("model")
        if not isinstance(model, str) or not model:
            raise Refusal("'model' must name an adapter: user/model.", param="model")
        if asked.body.get("stream") not in (None, True, False):
            raise Refusal("'stream' must be true or false.", param="stream")
        user = http.state.user
        target = await asyncio.to_thread(self._desk.target, user, model)
        name = new_id("chatcmpl-" if is_chat else "cmpl-")
        answers = Answers(asked, name, model)
        work = self._whole if not asked.streams else self._stream
        found = await unless_gone(http, work(path, target, asked, answers, name))
        return Response(status_code=_GONE) if found is None else found

    async def _whole(
        self, path: str, target: Target, asked: Asked, answers: Answers, name: str
    ) -> Response:
        """Return an answer as a whole."""
        response = await self._send(path, target, asked)
        try:
            content = await response.aread()
        except httpx.HTTPError as exc:
            raise unreachable(self._desk.serving.url, exc) from exc
        finally:
            await response.aclose()
        body = parsed_answer(content)
        answers.take(body)
        is_kept = await asyncio.to_thread(self._desk.keep, name, target, asked, answers)
        self._desk.metrics.count("answers", "whole")
        headers = {RECEIPT: name} if is_kept else None
        return Response(_json(body), media_type="application/json", headers=headers)

    async def _stream(
        self, path: str, target: Target, asked: Asked, answers: Answers, name: str
    ) -> Response:
        """Return an answer as a stream that has begun."""
        response = await self._send(path, target, asked)
        told = self._events(response, target, asked, answers, name)
        headers = {**_HEADERS, RECEIPT: name}
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    async def _events(
        self,
        response: httpx.Response,
        target: Target,
        asked: Asked,
        answers: Answers,
        name: str,
    ) -> AsyncIterator[bytes]:
        """Give what comes, as it comes; write the receipt down before the end."""
        keep, is_open = self._desk.keep, True
        try:
            async for event in events_in(response):
                kind, told = _read(event, answers)
                if kind == "end" and is_open:
                    is_open = False
                    await asyncio.to_thread(keep, name, target, asked, answers)
                    self._desk.metrics.count("answers", "stream")
                is_open = is_open and kind != "error"
                if told:
                    yield told
            if is_open:
                raise httpx.RemoteProtocolError("there is no end")
        except httpx.HTTPError as exc:
            is_open = False
            said = _json(body_of(unreachable(self._desk.serving.url, exc)))
            yield b"data: " + said + b"\n\ndata: [DONE]\n\n"
        finally:
            if is_open:  # the client left: what it saw is its answer
                loop = asyncio.get_running_loop()  # nothing can be awaited here
                loop.run_in_executor(None, keep, name, target, asked, answers)
            await response.aclose()

    async def _send(self, path: str, target: Target, asked: Asked) -> httpx.Response:
        """Return the response to a request, its body still to come."""
        response = await self._sent(path, target, asked)
        if response.status_code == 404 and target.lora is not None:
            await response.aclose()
            await self._desk.ask(self._desk.load, target.lora)
            response = await self._sent(path, target, asked)
        if response.status_code == 200:
            return response
        try:
            content = await response.aread()
        finally:
            await response.aclose()
        if response.status_code in THEIRS:
            raise Refusal(said_in(content), status=response.status_code)
        raise refused(response.status_code, content)

    async def _sent(self, path: str, target: Target, asked: Asked) -> httpx.Response:
        client = self._desk.upstream
        try:
            body = json.dumps(asked.upstream(target.serving), allow_nan=False)
        except ValueError as exc:
            raise Refusal(f"the body is no JSON: {exc}.") from exc
        headers = {"Content-Type": "application/json"}
        request = client.build_request("POST", path, content=body, headers=headers)
        try:
            return await client.send(request, stream=True)
        except httpx.HTTPError as exc:
            raise unreachable(self._desk.serving.url, exc) from exc


def parsed(content: bytes) -> dict[str, Any]:
    """Return what a client sent.

    Args:
        content: The body of the request.

    Raises:
        Refusal: If it is no object of JSON.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise Refusal(f"the body is no JSON: {exc}.") from exc
    if not isinstance(body, dict):
        raise Refusal('the body must be an object: {"model": …}.')
    return body


def parsed_answer(content: bytes) -> dict[str, Any]:
    """Return what the inference server sent.

    Args:
        content: The body of the response.

    Raises:
        ServingError: If it is no object of JSON.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ServingError("the inference server answers no JSON: look what it is.")
    return body


async def events_in(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Give the events of a stream, each as soon as it is whole.

    Args:
        response: The response.
    """
    held = b""
    async for piece in response.aiter_bytes():
        held += piece
        while found := _BREAK.search(held):
            yield held[: found.end()]
            held = held[found.end() :]
    if held.strip():
        yield held


def _read(event: bytes, answers: Answers) -> tuple[str, bytes]:
    """Return what an event is, and what of it goes to the client."""
    lines = event.splitlines()
    data = b"\n".join([x[5:].strip() for x in lines if x.startswith(b"data:")])
    if data == b"[DONE]":
        return "end", event
    try:
        body = json.loads(data)
    except ValueError:
        return "", event
    if not isinstance(body, dict) or "error" in body:
        return "error", event
    if not answers.take(body):
        return "", b""
    return "", b"data: " + _json(body) + b"\n\n"


def _json(body: Any) -> bytes:
    """Return JSON; half of a surrogate pair, which UTF-8 has not, stays escaped."""
    return json.dumps(body, separators=(",", ":")).encode("ascii")
