"""The endpoints of adapters: make, look at, promote, take back, export, delete."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from claas.errors import ConflictError, LimitError, NotFoundError
from claas.names import ALIASES
from claas.web.desk import Desk
from claas.web.forms import InitRequest, VersionRequest
from claas.web.refusals import Refusal

_SHOWN = 100  # feedback of an adapter
_PLACE = "/v1/lora/{user}/{model}"


def add_loras(app: FastAPI, desk: Desk) -> None:
    """Add the endpoints of adapters.

    Args:
        app: The app.
        desk: What they work with.
    """
    _add_all(app, desk)
    _add_one(app, desk)
    _add_switches(app, desk)


def _add_all(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/lora")
    def init(http: Request, request: InitRequest) -> Response:
        name = desk.owned(http.state.user, request.lora)
        if name.at:
            raise Refusal("name the adapter without a version.", param="lora")
        known, most = desk.shelf.list_loras(name.user), desk.settings.limits.loras
        if name.lora in known:
            raise ConflictError(f"there is an adapter {name} already.")
        if len(known) >= most:
            raise LimitError(f"you have {len(known)} adapters, {most} may be: delete.")
        desk.shelf.create_initial_lora(name.lora, desk.settings.base_model)
        return JSONResponse(lora_body(desk, name.lora), 201)

    @app.get("/v1/lora")
    def listing(http: Request) -> Response:
        names = sorted(desk.shelf.list_loras(http.state.user))
        data = [lora_body(desk, name) for name in names]
        return JSONResponse({"object": "list", "data": data})


def _add_one(app: FastAPI, desk: Desk) -> None:
    @app.get(_PLACE)
    def one(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        entries = desk.ledger.history(lora)[-_SHOWN:]
        jobs = [asdict(job) for job in desk.jobs.history(lora)]
        told = [
            {**asdict(e.feedback), "state": e.state, "marks": list(map(asdict, e.marks))}
            for e in entries
        ]
        body = {**lora_body(desk, lora), "updates": jobs, "feedback": told}
        return JSONResponse(body)

    @app.get(_PLACE + "/versions")
    def versions(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        data = list(map(dict, desk.shelf.versions(lora)))
        return JSONResponse({"object": "list", "data": data})

    @app.get(_PLACE + "/export")
    def export(http: Request, user: str, model: str) -> Response:
        name = desk.version(http.state.user, f"{user}/{model}")
        folder = tempfile.TemporaryDirectory(prefix="claas-export-")
        try:
            path = desk.shelf.export_lora(str(name), Path(folder.name))
        except BaseException:
            folder.cleanup()
            raise
        shown = f"{name.serving}{''.join(path.suffixes[-2:])}"
        return FileResponse(
            path, filename=shown, background=BackgroundTask(folder.cleanup)
        )

    @app.delete(_PLACE)
    def delete(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        numbers = [int(v["version"]) for v in desk.shelf.versions(lora)]
        desk.shelf.delete_lora(lora)
        ids = [feedback.id for feedback in desk.ledger.open(lora)]
        desk.ledger.mark(ids, "dropped", None, "the adapter was deleted.")
        desk.receipts.forget(lora)
        name = desk.owned(user, lora)
        for number in numbers:
            desk.unload(name.versioned(number))
        return JSONResponse({"id": lora, "object": "lora", "deleted": True})


def _add_switches(app: FastAPI, desk: Desk) -> None:
    @app.post(_PLACE + "/promote")
    def promote(
        http: Request, user: str, model: str, request: VersionRequest
    ) -> Response:
        if request.version is None:
            raise Refusal("which version is to serve?", param="version")
        lora = _found(desk, http, user, model)
        desk.version(http.state.user, f"{lora}@v{request.version}")
        desk.jobs.trainer.promote(lora, request.version)
        return JSONResponse(lora_body(desk, lora))

    @app.post(_PLACE + "/rollback")
    def rollback(
        http: Request, user: str, model: str, request: VersionRequest
    ) -> Response:
        lora = _found(desk, http, user, model)
        if request.version is not None:
            desk.version(http.state.user, f"{lora}@v{request.version}")
        desk.jobs.trainer.rollback(lora, request.version)
        return JSONResponse(lora_body(desk, lora))


def lora_body(desk: Desk, lora: str) -> dict[str, Any]:
    """Return what an adapter is like.

    Args:
        desk: What knows it.
        lora: The adapter.
    """
    versions: Sequence[Mapping[str, Any]] = desk.shelf.versions(lora)
    aliases = {alias: desk.shelf.alias(lora, alias) for alias in ALIASES}
    return {
        "id": lora,
        "object": "lora",
        "base": desk.settings.served,
        "aliases": {name: number for name, number in aliases.items() if number is not None},
        "versions": list(map(dict, versions)),
        "open": len(desk.ledger.open(lora)),
    }


def _found(desk: Desk, http: Request, user: str, model: str) -> str:
    """Return the adapter that a path names, if it is there and the user's."""
    name = desk.owned(http.state.user, f"{user}/{model}")
    if name.at:
        raise Refusal("name the adapter without a version.", param="lora")
    if name.lora not in desk.shelf.list_loras(name.user):
        raise NotFoundError(f"there is no adapter {name}: make it with POST /v1/lora.")
    return name.lora
