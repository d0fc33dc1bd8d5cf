"""The endpoints that need the base model: to make again, to explain, to forget.

All are jobs, since the worker's process may be training.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from claas.errors import NotFoundError
from claas.jobs import Job
from claas.ledger import Entry, Mark
from claas.storage import lineage
from claas.web.desk import Desk
from claas.web.forms import (
    DiffRequest,
    ExplainRequest,
    ForgetRequest,
    JobRequest,
)
from claas.web.refusals import Refusal

_PLACE = "/v1/lora/{user}/{model}"


def add_inquiries(app: FastAPI, desk: Desk) -> None:
    """Add the endpoints.

    Args:
        app: The app.
        desk: What they work with.
    """

    @app.post(_PLACE + "/rebuild")
    async def rebuild(
        http: Request, user: str, model: str, request: JobRequest
    ) -> Response:
        owner = http.state.user
        name = desk.owned(owner, f"{user}/{model}")
        if name.version is None:
            raise Refusal("name the version to make again: user/model@v3.")
        await asyncio.to_thread(lineage, str(name), desk.volume)  # is it known?
        job = await desk.jobs.submit(owner, name.lora, "rebuild", version=str(name))
        return await _answered(desk, job, request)

    @app.post(_PLACE + "/explain")
    async def explain(
        http: Request, user: str, model: str, request: ExplainRequest
    ) -> Response:
        owner = http.state.user
        name = await asyncio.to_thread(desk.version, owner, f"{user}/{model}")
        found = await asyncio.to_thread(_entry, desk, owner, name.lora, request)
        given = {"version": str(name), "feedback": found.feedback.id}
        job = await desk.jobs.submit(owner, name.lora, "explain", **given)
        return await _answered(desk, job, request, found.marks)

    @app.post(_PLACE + "/diff")
    async def diff(
        http: Request, user: str, model: str, request: DiffRequest
    ) -> Response:
        owner = http.state.user
        names = f"{user}/{model}", request.other
        pair = [await asyncio.to_thread(desk.version, owner, name) for name in names]
        given = {"first": str(pair[0]), "second": str(pair[1])}
        job = await desk.jobs.submit(owner, pair[0].lora, "diff", **given)
        return await _answered(desk, job, request)

    @app.post(_PLACE + "/forget")
    async def forget(
        http: Request, user: str, model: str, request: ForgetRequest
    ) -> Response:
        owner = http.state.user
        name = desk.owned(owner, f"{user}/{model}")
        if name.at:
            raise Refusal("name the adapter without a version.", param="lora")
        await asyncio.to_thread(desk.version, owner, f"{name}@latest")  # is it there?
        given = await asyncio.to_thread(_unwanted, desk, owner, name.lora, request)
        job = await desk.jobs.submit(owner, name.lora, "forget", **given)
        return await _answered(desk, job, request)


def _unwanted(
    desk: Desk, user: str, lora: str, request: ForgetRequest
) -> dict[str, list[str]]:
    """Return the ids of what is to be forgotten, if all of it is there."""
    for name in request.receipts:
        if desk.receipt(user, name).lora not in ("", lora):
            raise Refusal(f"{name} is no answer of {lora}.", param="receipts")
    names, found = {e.feedback.id for e in desk.ledger.history(lora)}, []
    for name in request.feedback:
        own = name if name in names else f"{user}/{name}"
        if own not in names:
            raise NotFoundError(f"there is no feedback {name[:80]!r} for {lora}.")
        found.append(own)
    return {"feedback": list(dict.fromkeys(found)), "receipts": request.receipts}


def _entry(desk: Desk, user: str, lora: str, request: ExplainRequest) -> Entry:
    """Return the feedback that is meant, with what became of it."""
    names = {request.feedback, f"{user}/{request.feedback}"}
    for entry in reversed(desk.ledger.history(lora)):
        one = entry.feedback
        if one.receipt == request.receipt or one.id in names:
            return entry
    told = request.feedback or request.receipt or ""
    raise NotFoundError(f"there is no feedback {told[:80]!r} for {lora}.")


async def _answered(
    desk: Desk, job: Job, request: JobRequest, marks: Sequence[Mark] = ()
) -> Response:
    """Return a job, at its end if that is waited for; 202 while it is not over.

    With what became of the feedback that it is about, if it is about one.
    """
    if request.wait:
        job = await desk.jobs.wait(job.id, desk.settings.limits.wait)
    told = {"marks": list(map(asdict, marks))} if marks else {}
    return JSONResponse({**asdict(job), **told}, 200 if job.is_over else 202)
