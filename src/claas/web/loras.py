"""The endpoints of adapters: make, look at, promote, take back, export, delete."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from claas.errors import LimitError, NotFoundError
from claas.names import LoraName
from claas.storage import (
    Version,
    create_initial_lora,
    delete_lora,
    export_lora,
    list_loras,
    updating,
    versions,
)
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
        count, settings = len(list_loras(name.user, desk.volume)), desk.settings
        if count >= settings.limits.loras:
            raise LimitError(f"you have {count} adapters, no more may be: delete one.")
        create_initial_lora(
            name.lora,
            settings.base_model,
            settings.training.rank,
            settings.training.scale,
            storage=desk.volume,
        )
        _drop(desk, name.lora)  # what one of the same name may have left
        return JSONResponse(lora_body(desk, name.lora), 201)

    @app.get("/v1/lora")
    def listing(http: Request) -> Response:
        names = list_loras(http.state.user, desk.volume)
        data = [lora_body(desk, name) for name in names]
        return JSONResponse({"object": "list", "data": data})


def _add_one(app: FastAPI, desk: Desk) -> None:
    @app.get(_PLACE)
    def one(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        entries = desk.ledger.history(lora)[-_SHOWN:]
        jobs = [asdict(job) for job in desk.jobs.history(lora)]
        told = [
            {
                **asdict(e.feedback),
                "state": e.state,
                "marks": list(map(asdict, e.marks)),
            }
            for e in entries
        ]
        body = {**lora_body(desk, lora), "updates": jobs, "feedback": told}
        return JSONResponse(body)

    @app.get(_PLACE + "/versions")
    def listed(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        means = desk.ratings.means(lora)
        data = [_version(version, means) for version in versions(lora, desk.volume)]
        return JSONResponse({"object": "list", "data": data})

    @app.get(_PLACE + "/export")
    def export(http: Request, user: str, model: str) -> Response:
        name = desk.version(http.state.user, f"{user}/{model}")
        folder = tempfile.TemporaryDirectory(prefix="claas-export-")
        try:
            target = Path(folder.name) / f"{name.serving}.zip"
            path = export_lora(str(name), target, desk.volume)
        except BaseException:
            folder.cleanup()
            raise
        after = BackgroundTask(folder.cleanup)
        return FileResponse(path, filename=path.name, background=after)

    @app.delete(_PLACE)
    async def delete(http: Request, user: str, model: str) -> Response:
        return await desk.ask(deleted, http, user, model)

    def deleted(http: Request, user: str, model: str) -> Response:
        lora = _found(desk, http, user, model)
        with updating(lora, "deletion", storage=desk.volume):
            gone = versions(lora, desk.volume)
            delete_lora(lora, desk.volume)
            _drop(desk, lora)
        desk.unload([LoraName.of(version.id) for version in gone])
        return JSONResponse({"id": lora, "object": "lora", "deleted": True})


def _add_switches(app: FastAPI, desk: Desk) -> None:
    @app.post(_PLACE + "/promote")
    async def promote(
        http: Request, user: str, model: str, request: VersionRequest
    ) -> Response:
        if request.version is None:
            raise Refusal("which version is to serve?", param="version")
        return await desk.ask(switched, http, user, model, request)

    @app.post(_PLACE + "/rollback")
    async def rollback(
        http: Request, user: str, model: str, request: VersionRequest
    ) -> Response:
        return await desk.ask(switched, http, user, model, request)

    def switched(
        http: Request, user: str, model: str, request: VersionRequest
    ) -> Response:
        lora = _found(desk, http, user, model)
        to = None if request.version is None else f"{lora}@v{request.version}"
        desk.jobs.trainer.switch(lora, to)
        return JSONResponse(lora_body(desk, lora))


def lora_body(desk: Desk, lora: str) -> dict[str, Any]:
    """Return what an adapter is like.

    Args:
        desk: What knows it.
        lora: The adapter.
    """
    found, means = versions(lora, desk.volume), desk.ratings.means(lora)
    aliases = {alias: v.number for v in found for alias in v.aliases}
    return {
        "id": lora,
        "object": "lora",
        "base": desk.settings.served,
        "aliases": aliases,
        "versions": [_version(version, means) for version in found],
        "open": desk.ledger.waiting(lora),
    }


def _drop(desk: Desk, lora: str) -> None:
    """Delete what was asked of a deleted adapter, and said about its answers."""
    desk.ledger.forget(lora)
    desk.receipts.forget(lora)
    desk.ratings.forget(lora)
    desk.jobs.forget(lora)


def _version(
    version: Version, means: Mapping[int, tuple[int, float]]
) -> dict[str, Any]:
    """Return a version with its ratings, without where its files are."""
    meta = {k: v for k, v in version.meta.items() if k != "files"}
    told = {"id": version.id, "version": version.number}
    count, mean = means.get(version.number, (0, None))
    ratings = {"count": count, "mean": mean}
    return {**meta, **told, "aliases": list(version.aliases), "ratings": ratings}


def _found(desk: Desk, http: Request, user: str, model: str) -> str:
    """Return the adapter that a path names, if it is there and the user's."""
    name = desk.owned(http.state.user, f"{user}/{model}")
    if name.at:
        raise Refusal("name the adapter without a version.", param="lora")
    if name.lora not in list_loras(name.user, desk.volume):
        raise NotFoundError(f"there is no adapter {name}: make it with POST /v1/lora.")
    return name.lora
