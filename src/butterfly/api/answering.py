"""Answers over HTTP: whole, or as a stream of server-sent events."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from butterfly.api.forms import Form
from butterfly.api.refusals import body_of
from butterfly.api.service import Service
from butterfly.errors import ButterflyError
from butterfly.web.leaving import unless_gone

_GONE = 499  # what nginx logs when a client left; nobody reads it
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def answer(http: Request, service: Service, form: Form) -> Response:
    """Answer a request, as a whole or as a stream.

    A client that leaves ends its answers.

    Args:
        http: The request.
        service: What makes answers.
        form: How they are written.
    """
    if form.asked.stream:
        told = _events(service, form)
        return StreamingResponse(told, media_type="text/event-stream", headers=_HEADERS)
    body = await unless_gone(http, _whole(service, form))
    return Response(status_code=_GONE) if body is None else JSONResponse(body)


async def _whole(service: Service, form: Form) -> dict[str, Any]:
    async with aclosing(service.pieces(form.jobs)) as pieces:
        async for piece in pieces:
            form.take(piece)
    return form.whole()


async def _events(service: Service, form: Form) -> AsyncIterator[str]:
    try:
        for chunk in form.opening():
            yield _event(chunk)
        async with aclosing(service.pieces(form.jobs)) as pieces:
            async for piece in pieces:
                form.take(piece)
                if (told := form.chunk(piece)) is not None:
                    yield _event(told)
        if (last := form.closing()) is not None:
            yield _event(last)
    except ButterflyError as exc:  # the status is sent already
        yield _event(body_of(exc))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
