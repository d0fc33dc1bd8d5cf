"""The endpoints that look: models, scores, jobs, health, metrics, the page."""

import contextlib
from dataclasses import asdict
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from claas.errors import NotFoundError
from claas.pages import HEADERS, page
from claas.storage import list_loras
from claas.web.desk import Desk
from claas.web.forms import ScoreRequest
from claas.web.intake import prompt_tokens
from claas.web.refusals import as_theirs

_PATIENCE = 5.0  # seconds for the inference server to say that it is well


def add_looks(app: FastAPI, desk: Desk) -> None:
    """Add the endpoints that look.

    Args:
        app: The app.
        desk: What they work with.
    """
    _add_models(app, desk)

    @app.post("/v1/score")
    async def score(http: Request, request: ScoreRequest) -> Response:
        found = await desk.ask(scored, desk, http.state.user, request)
        return JSONResponse(found)

    @app.get("/v1/jobs/{job_id}")
    def job(http: Request, job_id: str) -> Response:
        with contextlib.suppress(NotFoundError):
            if (found := desk.jobs.get(job_id)).user == http.state.user:
                return JSONResponse(asdict(found))
        raise NotFoundError(f"you have no job {job_id[:80]!r}.")

    @app.get("/v1/health")
    async def health() -> Response:
        try:  # anybody may ask: it takes no thread, and not for long
            told = await desk.upstream.get("/health", timeout=_PATIENCE)
            is_well = told.status_code == 200
        except httpx.HTTPError:
            is_well = False
        if not is_well:
            return JSONResponse({"status": "no inference server"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(desk.metrics.text(), media_type=kind)

    @app.get("/")
    async def front() -> HTMLResponse:
        return HTMLResponse(page(), headers=HEADERS)


def _add_models(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models")
    def models(http: Request) -> Response:
        names = list_loras(http.state.user, desk.volume)
        found = [_model(desk, name) for name in [desk.settings.served, *names] if name]
        return JSONResponse({"object": "list", "data": found})

    @app.get("/v1/models/{name:path}")
    def model(http: Request, name: str) -> Response:
        target = desk.target(http.state.user, name)
        return JSONResponse(_model(desk, target.model))


def _model(desk: Desk, name: str) -> dict[str, Any]:
    """Return a model as OpenAI writes it."""
    body = {"id": name, "object": "model", "created": 0, "owned_by": "claas"}
    if name == desk.settings.served:
        return {**body, "root": name, "parent": None}
    target = desk.target(name.partition("/")[0], name)
    assert target.lora is not None
    owner, root = target.lora.user, str(target.lora)
    return {**body, "owned_by": owner, "root": root, "parent": desk.settings.served}


def scored(desk: Desk, user: str, request: ScoreRequest) -> dict[str, Any]:
    """Return how probable an answer is; synchronous.

    Args:
        desk: What knows the inference server.
        user: Who asks.
        request: What he asks.

    Raises:
        ClaasError: If it cannot be said.
    """
    target = desk.target(user, request.model)
    before, tokens = _sequence(desk, user, request)
    if target.lora is not None and target.serving not in desk.serving.names():
        desk.load(target.lora)
    top_k = request.top_logprobs
    with as_theirs():
        found = desk.serving.score([*before, *tokens], target.serving, top_k)
    own = found.logprobs[-len(tokens) :]
    body = {
        "object": "score",
        "model": request.model,
        "version": None if target.lora is None else str(target.lora),
        "token_ids": tokens,
        "logprobs": own,
        "sum": sum(own),
        "mean": sum(own) / len(own),
    }
    if top_k:
        rows = zip(found.indices, found.tops, strict=True)
        tops = [dict(zip(map(str, i), p, strict=True)) for i, p in rows]
        body["top_logprobs"] = tops[-len(tokens) :]
    return body


def _sequence(
    desk: Desk, user: str, request: ScoreRequest
) -> tuple[list[int], list[int]]:
    """Return the tokens before an answer, and those of it."""
    if request.receipt is not None:
        receipt = desk.receipt(user, request.receipt)
        return list(receipt.prompt_ids), list(receipt.token_ids)
    before = prompt_tokens(desk, request.messages, request.prompt)
    response = request.response
    if isinstance(response, list):
        return before, response
    with as_theirs():
        return before, desk.serving.tokenize(desk.settings.served, text=response)
