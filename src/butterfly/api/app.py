"""`create_app`: OpenAI's endpoints and vLLM's, over a head."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from butterfly.api.answering import answer
from butterfly.api.forms import ChatForm, CompletionForm
from butterfly.api.guards import KeyGuard
from butterfly.api.operations import add_operations
from butterfly.api.refusals import answer_errors
from butterfly.api.requests import ChatRequest, CompletionRequest
from butterfly.api.service import Service
from butterfly.api.state import state_of
from butterfly.api.tokenizer import Tokenizer
from butterfly.cluster.head import Head
from butterfly.config import VERSION
from butterfly.monitoring.metrics import Metrics
from butterfly.web.size import SizeGuard

MOST_BYTES = 4 << 20


def create_app(
    head: Head, *, name: str = "", api_key: str = "", most_bytes: int = MOST_BYTES
) -> FastAPI:
    """Return the API of a head.

    Args:
        head: Who makes answers.
        name: What the model is called; empty for the name it was given by.
        api_key: What clients must send; empty for nothing.
        most_bytes: The most bytes of a request.

    Raises:
        ConfigurationError: If the model has no tokenizer.
    """
    service = Service(
        head,
        Tokenizer(head.checkpoint.folder, head.config),
        Metrics(lambda: state_of(head)),
        name or head.options.model,
    )
    app = FastAPI(title="butterfly", version=VERSION, docs_url=None, redoc_url=None)
    app.add_middleware(SizeGuard, most=most_bytes, fix="serve with a larger --body.")
    if api_key:
        app.add_middleware(KeyGuard, key=api_key)
    answer_errors(app)
    _add_generation(app, service)
    add_operations(app, service)
    return app


def _add_generation(app: FastAPI, service: Service) -> None:
    """Add OpenAI's endpoints."""

    @app.post("/v1/chat/completions")
    async def chat(http: Request, request: ChatRequest) -> Response:
        jobs = await service.chat(request)
        form = ChatForm(*(request, jobs), *_place(service))
        return await answer(http, service, form)

    @app.post("/v1/completions")
    async def completions(http: Request, request: CompletionRequest) -> Response:
        jobs = await service.completions(request)
        form = CompletionForm(*(request, jobs), *_place(service))
        return await answer(http, service, form)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        names = [service.name, *service.head.adapters.by_name]
        data = [_model(service, name) for name in names]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        service.adapter(name)
        return JSONResponse(_model(service, name))


def _place(service: Service) -> tuple[Tokenizer, str, int]:
    return service.tokenizer, service.name, service.head.epoch


def _model(service: Service, name: str) -> dict[str, Any]:
    adapter = service.head.adapters.by_name.get(name)
    return {
        "id": name,
        "object": "model",
        "created": int(service.head.checkpoint.folder.stat().st_mtime),
        "owned_by": "butterfly",
        "root": service.name if adapter is None else adapter.folder,
        "parent": None if adapter is None else service.name,
        "max_model_len": service.head.options.positions,
    }
