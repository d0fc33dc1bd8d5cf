"""The endpoints that need the base model: a version made again, a feedback explained.

Both are jobs, since the worker's process may be training.
"""

import asyncio
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from claas.errors import NotFoundError
from claas.jobs import Job
from claas.storage import lineage
from claas.web.desk import Desk
from claas.web.forms import ExplainRequest, JobRequest
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
        found = await asyncio.to_thread(_feedback, desk, owner, name.lora, request)
        given = {"version": str(name), "feedback": found}
        job = await desk.jobs.submit(owner, name.lora, "explain", **given)
        return await _answered(desk, job, request)


def _feedback(desk: Desk, user: str, lora: str, request: ExplainRequest) -> str:
    """Return the id of the feedback that is meant."""
    names = {request.feedback, f"{user}/{request.feedback}"}
    for entry in reversed(desk.ledger.history(lora)):
        one = entry.feedback
        if one.receipt == request.receipt or one.id in names:
            return one.id
    told = request.feedback or request.receipt or ""
    raise NotFoundError(f"there is no feedback {told[:80]!r} for {lora}.")


async def _answered(desk: Desk, job: Job, request: JobRequest) -> Response:
    """Return a job, at its end if that is waited for; 202 while it is not over."""
    if request.wait:
        job = await desk.jobs.wait(job.id, desk.settings.limits.wait)
    return JSONResponse(asdict(job), 200 if job.is_over else 202)
