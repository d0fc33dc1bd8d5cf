"""Ratings over HTTP: how good answers were, and what is taken back for it."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from claas.errors import ClaasError
from claas.types import Feedback, Receipt
from claas.web.desk import FOREIGN, Desk
from claas.web.forms import RateRequest
from claas.web.refusals import Refusal

_log = logging.getLogger("claas.api")


def add_rating(app: FastAPI, desk: Desk) -> None:
    """Add the endpoint.

    Args:
        app: The app.
        desk: What it works with.
    """

    @app.post("/v1/rate")
    async def rate(http: Request, request: RateRequest) -> Response:
        user = http.state.user
        receipt = await asyncio.to_thread(desk.receipt, user, request.receipt)
        if not _is_ours(receipt):
            raise Refusal(
                f"no adapter gave the answer {receipt.id}: only theirs are rated.",
                param="receipt",
            )
        is_new = await asyncio.to_thread(desk.ratings.add, receipt, request.rating)
        back = await watched(desk, user, receipt.lora) if is_new else None
        told = {
            **{"object": "rating", "receipt": receipt.id, "rating": request.rating},
            **{"lora": receipt.lora, "version": receipt.version, "is_new": is_new},
            "rollback": back,
        }
        return JSONResponse(told)


def _is_ours(receipt: Receipt) -> bool:
    """Say whether a version of an adapter gave an answer here."""
    return receipt.version is not None and not receipt.id.startswith(FOREIGN)


async def rated(desk: Desk, user: str, given: Iterable[Feedback]) -> None:
    """Take the scores of feedback as ratings; the first of an answer stands.

    Args:
        desk: What knows the answers.
        user: Who gave it.
        given: The feedback.
    """
    loras: dict[str, None] = {}
    for said in given:
        if said.score is None:
            continue
        receipt = await asyncio.to_thread(desk.receipt, user, said.receipt)
        if _is_ours(receipt):
            add = desk.ratings.add
            await asyncio.to_thread(add, receipt, said.score, is_first=True)
            loras[receipt.lora] = None
    for lora in loras:
        await watched(desk, user, lora)


async def watched(desk: Desk, user: str, lora: str) -> dict[str, Any] | None:
    """Look whether what serves is to be taken back; return what was done.

    Args:
        desk: What does it.
        user: Whose adapter it is.
        lora: The adapter.
    """
    try:
        done = await desk.ask(desk.jobs.trainer.watch, lora)
        if done is None:
            return None
    except ClaasError as exc:  # the rating is taken; the next one tries again
        _log.warning("%s was not taken back: %s", lora, exc)
        return None
    desk.metrics.count("rollbacks")
    told = {"outcome": "rolled_back", "version": done.version, "error": done.why}
    try:
        await asyncio.to_thread(desk.jobs.note, user, lora, "rollback", told)
    except ClaasError as exc:  # it is done all the same
        _log.error("%s was taken back, which is not among its jobs: %s", lora, exc)
    return {"from": done.parent, "to": done.version, "why": done.why}
