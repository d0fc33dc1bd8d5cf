"""What those who run a server ask for: tokens, health, metrics, sleep."""

from dataclasses import asdict
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)

from butterfly.api.refusals import Refusal
from butterfly.api.requests import (
    DetokenizeRequest,
    LoadAdapterRequest,
    TokenizeRequest,
    UnloadAdapterRequest,
)
from butterfly.api.service import Service
from butterfly.api.state import state_of
from butterfly.api.tools import toolbox_of
from butterfly.errors import ConfigurationError

_PAGE = files("butterfly.monitoring") / "page.html"
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; frame-ancestors 'none'"
    )
}


def add_operations(app: FastAPI, service: Service) -> None:
    """Add the endpoints that are vLLM's, and butterfly's own.

    Args:
        app: The app.
        service: What they work with.
    """
    _add_tokens(app, service)
    _add_sleep(app, service)
    _add_adapters(app, service)

    @app.get("/health")
    async def health() -> JSONResponse:
        state = state_of(service.head)
        status = 200 if state.is_serving or state.is_asleep else 503
        said = "asleep" if state.is_asleep else "ok" if status == 200 else "beginning"
        if status != 200 and (service.head.trouble or not state.nodes):
            said = "no nodes" if not state.nodes else "failed"
        return JSONResponse({"status": said, "nodes": state.nodes}, status)

    @app.get("/metrics")
    async def metrics() -> Response:
        text = service.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/state")
    async def state() -> JSONResponse:
        told = {"model": service.name, "generated": service.metrics.generated}
        return JSONResponse({**told, **asdict(state_of(service.head))})

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text("utf-8"), headers=_PAGE_HEADERS)


def _add_tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(request: TokenizeRequest) -> JSONResponse:
        service.adapter(request.model)
        tokens = _tokens(service, request)
        strs = [service.tokenizer.piece(t).decode("utf-8", "replace") for t in tokens]
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": service.head.options.positions,
                "tokens": tokens,
                "token_strs": strs if request.return_token_strs else None,
            }
        )

    @app.post("/detokenize")
    async def detokenize(request: DetokenizeRequest) -> JSONResponse:
        service.adapter(request.model)
        service.tokenizer.check(request.tokens, "tokens")
        text = service.tokenizer.decode(request.tokens, skip_special=False)
        return JSONResponse({"prompt": text})


def _tokens(service: Service, request: TokenizeRequest) -> list[int]:
    """Return the tokens of a prompt, or of messages."""
    special = request.add_special_tokens
    if request.messages is not None:
        return service.tokenizer.chat(
            request.messages,
            begins=request.add_generation_prompt,
            goes_on=request.continue_final_message,
            special=bool(special),
            more=request.chat_template_kwargs,
            tools=toolbox_of(request.tools, None),
        )
    if request.prompt is None:
        raise Refusal("send a 'prompt', or 'messages'.", param="prompt")
    with_special = True if special is None else special
    return service.tokenizer.encode(request.prompt, special=with_special)


def _add_adapters(app: FastAPI, service: Service) -> None:
    @app.post("/v1/load_lora_adapter")
    async def load_lora_adapter(request: LoadAdapterRequest) -> Response:
        service.must_serve()
        name = request.lora_name
        try:
            if name == service.name:
                raise ConfigurationError(f"{name!r} is the name of the model itself.")
            await service.head.load_adapter(name, request.lora_path)
        except ConfigurationError as exc:
            raise Refusal(str(exc)) from exc
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload_lora_adapter(request: UnloadAdapterRequest) -> Response:
        name = request.lora_name
        try:
            await service.head.unload_adapter(name)
        except ConfigurationError as exc:
            raise Refusal(str(exc), status=404, code="model_not_found") from exc
        return PlainTextResponse(
            f"Success: LoRA adapter '{name}' removed successfully."
        )


def _add_sleep(app: FastAPI, service: Service) -> None:
    @app.post("/sleep")
    async def sleep(level: int = 1) -> Response:
        if level not in (1, 2):
            raise Refusal(f"level {level} is not known: 1 or 2.", param="level")
        await service.head.sleep()
        return Response()

    @app.post("/wake_up")
    async def wake_up() -> Response:
        await service.head.wake()
        return Response()

    @app.get("/is_sleeping")
    async def is_sleeping() -> JSONResponse:
        return JSONResponse({"is_sleeping": service.head.is_asleep})
