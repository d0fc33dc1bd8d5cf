"""The API: `create_app`, and `app` for ``uvicorn claas.api:app``.

`app` is made when it is asked for, from the settings of the environment; importing this
file needs neither settings nor a server. With the engine ``modal`` it is a
``modal.App``, for ``modal deploy -m claas.api``; its functions are `web` and `teach`.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from butterfly.web.size import SizeGuard
from claas.config import VERSION, Settings, check_server, read_settings
from claas.database import Database
from claas.errors import ClaasError
from claas.jobs import Jobs, Trainer
from claas.ledger import Ledger
from claas.parts import Teaching
from claas.ratings import Ratings
from claas.serving import Serving, key_headers, server_root
from claas.volumes import modal_library
from claas.web.deployment import NAME, deployment_of
from claas.web.desk import Desk
from claas.web.forms import DistillRequest, FeedbackRequest
from claas.web.guards import KeyGuard, RateGuard
from claas.web.inquiries import add_inquiries
from claas.web.intake import Intake
from claas.web.looks import add_looks
from claas.web.loras import add_loras
from claas.web.metrics import Metrics
from claas.web.proxy import Proxy
from claas.web.rating import add_rating
from claas.web.refusals import answer_errors
from claas.web.remote import answered
from claas.web.snapshots import Snapshots
from claas.web.workshop import (
    load_teaching,
    modal_workshop_of,
    receipts_of,
    settled,
    volume_of,
    workshop_of,
)

_CONNECT = 10.0  # seconds
_PAUSE = 60.0  # seconds between two looks at what is too old


def create_app(settings: Settings, trainer: Trainer) -> FastAPI:
    """Return the API. It opens its files when it starts to serve.

    Args:
        settings: What it is told.
        trainer: What trains.

    Raises:
        ConfigurationError: If the settings do not say who may use it, or the base.
    """
    check_server(settings)
    app = FastAPI(
        title="claas",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(settings, trainer),
    )
    limits = settings.limits  # the guard that is added last is asked first
    app.add_middleware(SizeGuard, most=limits.body, fix="set 'limits.body'.")
    app.add_middleware(RateGuard, most=limits.open, per_minute=limits.per_minute)
    keys = {name: key.get_secret_value() for name, key in settings.users.items()}
    app.add_middleware(KeyGuard, users=keys)
    answer_errors(app)
    return app


def app_of(settings: Settings) -> FastAPI:
    """Return the API with the worker that the settings name.

    Args:
        settings: What it is told.

    Raises:
        ConfigurationError: If the settings do not fit.
    """
    check_server(settings)  # before anything is opened
    settings = settled(settings)
    return create_app(settings, workshop_of(settings))


def web() -> FastAPI:
    """Return the API in a container of Modal, from the settings of the environment.

    Called with ``.local()``, all of it is done here, and the volume is a folder.

    Raises:
        ConfigurationError: If the settings do not fit.
        StorageError: If the database cannot be used.
    """
    settings, modal = read_settings(), modal_library()
    work = Path(tempfile.mkdtemp(prefix="claas-"), "claas.sqlite3")
    snapshots = Snapshots(work, settings.database_path, volume_of(settings))
    snapshots.fetch()
    settings = settings.model_copy(update={"database": work})
    ask = teach if modal.is_local() else modal.Function.from_name(NAME, "teach").remote
    app = create_app(settings, modal_workshop_of(settings, ask))
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with snapshots.running(), inner(app):
            yield

    app.router.lifespan_context = lifespan
    return app


def teach(what: str, *given: Any) -> Any:
    """Learn or judge in a container of Modal; see `claas.web.remote.answered`.

    Args:
        what: The method that is asked for.
        given: Its arguments.

    Raises:
        ClaasError: What the method raises, and if the base model is not there.
    """
    volume_of(read_settings(), alone=False).refresh()
    return answered(_teaching(), what, given)


@cache
def _teaching() -> Teaching:
    """Load the base model, once in a container: its settings never change."""
    return load_teaching(read_settings())


def _lifespan(
    settings: Settings, trainer: Trainer
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Return what opens before the first request, and closes after the last."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with contextlib.AsyncExitStack() as stack:
            database = Database(settings.database_path)
            stack.callback(database.close)
            desk = await _desk(settings, trainer, database, stack)
            _add_endpoints(app, desk)
            stack.callback(app.router.routes.clear)
            await desk.jobs.start()
            stack.push_async_callback(desk.jobs.close)
            tending = asyncio.create_task(_tend(desk))
            stack.callback(tending.cancel)
            yield

    return lifespan


async def _desk(
    settings: Settings,
    trainer: Trainer,
    database: Database,
    stack: contextlib.AsyncExitStack,
) -> Desk:
    """Return what the endpoints work with."""
    limits, key = settings.limits, settings.server_key.get_secret_value()
    seconds = settings.server_timeout
    serving = Serving(settings.server_url, key, timeout=seconds)
    stack.callback(serving.close)
    upstream = httpx.AsyncClient(
        base_url=server_root(settings.server_url),
        headers=key_headers(key),
        timeout=httpx.Timeout(seconds, connect=_CONNECT),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        trust_env=False,
    )
    await stack.enter_async_context(upstream)
    metrics = Metrics(lambda: {"jobs_waiting": jobs.waiting})
    jobs = Jobs(
        *(database, trainer, limits.jobs), lambda how: metrics.count("updates", how)
    )
    return Desk(
        settings,
        receipts_of(database, limits),
        Ledger(database),
        Ratings(database),
        jobs,
        volume_of(settings),
        serving,
        upstream,
        metrics,
    )


def _add_endpoints(app: FastAPI, desk: Desk) -> None:
    """Add all endpoints. What controls the inference server is not among them."""
    proxy, intake = Proxy(desk), Intake(desk)

    @app.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        return await proxy.answer(http, "/v1/chat/completions")

    @app.post("/v1/completions")
    async def completions(http: Request) -> Response:
        return await proxy.answer(http, "/v1/completions")

    @app.post("/v1/feedback")
    async def feedback(http: Request, request: FeedbackRequest) -> Response:
        told = await intake.feedback(http.state.user, request)
        return await _answered(intake, told, waits=request.wait)

    @app.post("/v1/distill")
    async def distill(http: Request, request: DistillRequest) -> Response:
        told = await intake.distill(http.state.user, request)
        return await _answered(intake, told, waits=request.wait)

    add_loras(app, desk)
    add_inquiries(app, desk)
    add_looks(app, desk)
    add_rating(app, desk)


async def _answered(intake: Intake, told: dict[str, Any], *, waits: bool) -> Response:
    """Return the answer to feedback: 202 while an update of it is not over."""
    body = await intake.awaited(told, waits=waits)
    is_over = all(job["ended"] for job in body["jobs"])
    return JSONResponse(body, 200 if is_over else 202)


async def _tend(desk: Desk) -> None:
    """Delete old receipts and let old versions be unloaded, now and then."""
    while True:
        for work in (desk.receipts.prune, desk.jobs.trainer.retire):
            with contextlib.suppress(ClaasError):  # the next one tries again
                await desk.ask(work)
        await asyncio.sleep(_PAUSE)


def __getattr__(name: str) -> Any:
    """Make `app` from the settings of the environment."""
    if name != "app":
        raise AttributeError(f"module 'claas.api' has no attribute {name!r}")
    settings = read_settings()
    if settings.engine == "modal":
        return deployment_of(settings, web, teach).app
    return app_of(settings)
