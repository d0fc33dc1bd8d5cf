"""A small vLLM with scripted answers, a trainer that does as told, and claas over both.

All of it is served on loopback by threads of this process: what is tested is HTTP.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.responses import StreamingResponse

from claas.api import create_app
from claas.config import Settings, read_settings
from claas.database import Database
from claas.storage import load_lora, move_alias, save_lora, version
from claas.types import TokenRow
from claas.volumes import LocalVolume

KEYS = {"ann": "key-of-ann-0123456789", "bob": "key-of-bob-0123456789"}
SERVER_KEY = "key-of-the-server-xyz"
BASE = "tiny"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 32,
}


def tokens_of(text: str) -> list[int]:
    """Return the tokens of a text: one for each word."""
    return [1 + sum(map(ord, word)) % 1000 for word in text.split()]


@dataclass
class FakeVllm:
    """What vLLM's server does, with scripted answers.

    Args:
        words: What it answers, a token each.
        adapters: What is loaded, by name.
        seen: The requests that came: path and body.
        tells_tokens: Whether it reports tokens.
        fails: What it answers instead: a status and a body.
        gate: What a stream waits for before its second event.
        breaks: Whether a stream ends in the middle.
        is_well: What it says of itself.
    """

    words: list[str] = field(default_factory=lambda: ["well", " met", "!"])
    adapters: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, Any]] = field(default_factory=list)
    tells_tokens: bool = True
    fails: tuple[int, Any] | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    breaks: bool = False
    is_well: bool = True
    left: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def bodies(self, path: str) -> list[Any]:
        """Return what came to a path."""
        return [body for seen, body in self.seen if seen == path]

    def app(self) -> FastAPI:
        """Return it as an app."""
        app = FastAPI(openapi_url=None)

        @app.middleware("http")
        async def guard(request: Request, following: Any) -> Response:
            if request.headers.get("authorization") != f"Bearer {SERVER_KEY}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await following(request)

        @app.get("/health")
        async def health() -> Response:
            return Response(status_code=200 if self.is_well else 503)

        @app.get("/v1/models")
        async def models() -> Any:
            return {"data": [{"id": name} for name in [BASE, *self.adapters]]}

        self._add_adapters(app)
        self._add_answers(app)
        return app

    def _add_adapters(self, app: FastAPI) -> None:
        @app.post("/v1/load_lora_adapter")
        async def load(request: Request) -> Response:
            body = await self._taken(request)
            name, path = body["lora_name"], body["lora_path"]
            if name in self.adapters:
                return self._error(400, f"The lora adapter '{name}' is there")
            if not (Path(path) / "adapter_config.json").is_file():
                return self._error(404, f"No adapter found for {path}")
            self.adapters[name] = path
            return PlainTextResponse(f"Success: LoRA adapter '{name}' added.")

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request) -> Response:
            name = (await self._taken(request))["lora_name"]
            if self.adapters.pop(name, None) is None:
                return self._error(404, f"The lora adapter '{name}' cannot be found.")
            return PlainTextResponse("Success")

        @app.post("/tokenize")
        async def tokenize(request: Request) -> Any:
            body = await self._taken(request)
            told = body.get("prompt") or " ".join(
                [str(m["content"]) for m in body["messages"]]
            )
            return {"tokens": tokens_of(told), "count": 0, "max_model_len": 9}

    def _add_answers(self, app: FastAPI) -> None:
        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            return await self._answer(request, is_chat=True)

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            return await self._answer(request, is_chat=False)

    async def _taken(self, request: Request) -> Any:
        body = json.loads(await request.body())
        self.seen.append((request.url.path, body))
        return body

    @staticmethod
    def _error(status: int, message: str) -> Response:
        return JSONResponse({"error": {"message": message, "code": status}}, status)

    async def _answer(self, request: Request, *, is_chat: bool) -> Response:
        body = await self._taken(request)
        if body["model"] not in (BASE, *self.adapters):
            return self._error(404, f"The model `{body['model']}` does not exist.")
        if self.fails is not None:
            return JSONResponse(self.fails[1], self.fails[0])
        form = _Form(self, body, is_chat)
        if body.get("stream"):
            told = self._events(request, form)
            return StreamingResponse(told, media_type="text/event-stream")
        return Response(json.dumps(form.whole()), media_type="application/json")

    async def _events(self, request: Request, form: "_Form") -> AsyncIterator[str]:
        try:
            for number, chunk in enumerate(form.chunks()):
                if number == 2:
                    await asyncio.to_thread(self.gate.wait, 30)
                yield f"data: {json.dumps(chunk)}\n\n"
                if self.breaks:
                    raise ConnectionError
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()


@dataclass
class _Form:
    """How an answer is written."""

    server: FakeVllm
    body: Any
    is_chat: bool

    @property
    def prompt(self) -> list[int]:
        """The tokens of the prompt."""
        if self.is_chat:
            return tokens_of(
                " ".join([str(m["content"]) for m in self.body["messages"]])
            )
        given = self.body["prompt"]
        given = (
            given[0] if isinstance(given, list) and isinstance(given[0], str) else given
        )
        return tokens_of(given) if isinstance(given, str) else given

    def head(self) -> dict[str, Any]:
        """Return what every body begins with."""
        return {"id": "chatcmpl-theirs", "model": self.body["model"], "created": 1}

    def logprobs(self, count: int, start: int = 0) -> Any:
        """Return log probabilities, if they were asked for."""
        values = [-0.5 * (n + 1) for n in range(start, start + count)]
        if self.is_chat:
            if not self.body.get("logprobs"):
                return None
            return {"content": [{"token": "x", "logprob": v} for v in values]}
        asked = self.body.get("logprobs")
        return None if asked is None else {"token_logprobs": values, "tokens": []}

    def whole(self) -> dict[str, Any]:
        """Return the response."""
        words = self.server.words
        count = int(self.body.get("n") or 1)
        choices = [self._choice(n, words) for n in range(count)]
        body = {**self.head(), "object": "x", "choices": choices, "system": "kept"}
        if self.body.get("return_token_ids") and self.server.tells_tokens:
            body["prompt_token_ids"] = self.prompt
            for choice in choices:
                choice["token_ids"] = tokens_of(" ".join(words))
        rows = self.body.get("prompt_logprobs")
        if rows is not None:
            choices[0]["prompt_logprobs"] = [None, *map(self._row, self.prompt[1:])]
        return body

    def _row(self, token: int) -> dict[str, Any]:
        top = self.body["prompt_logprobs"]
        told = {str(7000 + n): {"logprob": -0.1 * (n + 1)} for n in range(top)}
        return {**told, str(token): {"logprob": -token / 100}}

    def _choice(self, index: int, words: list[str]) -> dict[str, Any]:
        text = "".join(words)
        said: dict[str, Any] = {"text": text}
        if self.is_chat:
            said = {"message": {"role": "assistant", "content": text}}
        told = {"index": index, "logprobs": self.logprobs(len(words))}
        return {**told, **said, "finish_reason": "stop"}

    def chunks(self) -> Iterator[dict[str, Any]]:
        """Give the chunks of a stream: one a token, and one that is silent."""
        first: dict[str, Any] = {"index": 0, "delta": {"role": "assistant"}}
        if self.is_chat:
            yield {**self.head(), "choices": [first], "prompt_token_ids": self.prompt}
        for number, word in enumerate([*self.server.words, ""]):
            is_last = number == len(self.server.words)
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": {"content": word}} if self.is_chat else {"text": word}
            choice["logprobs"] = self.logprobs(0 if is_last else 1, number)
            choice["token_ids"] = tokens_of(word)
            if not self.is_chat and not number:
                choice["prompt_token_ids"] = self.prompt
            yield {**self.head(), "choices": [choice]}
        yield {
            **self.head(),
            "choices": [{**first, "delta": {}, "finish_reason": "stop"}],
        }


@dataclass
class FakeTrainer:
    """A trainer that makes a version of the last one, as it is told.

    Args:
        volume: Where adapters are.
        results: What the next updates say; promoted where there is none.
        gate: What an update waits for.
        calls: What was asked of it.
        lent: The versions that were loaded because a client asked for them.
        retired: Whether it was asked to unload what is old.
    """

    volume: LocalVolume
    results: list[Any] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    lent: list[str] = field(default_factory=list)
    retired: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def update(self, lora: str, update_id: str) -> Any:
        """Make an update."""
        self.calls.append(("update", lora, update_id))
        assert self.gate.wait(30)
        told = self.results.pop(0) if self.results else {"outcome": "promoted"}
        if isinstance(told, Exception):
            raise told
        made = save_lora(version(lora, self.volume).path, lora, {}, self.volume)
        if told["outcome"] == "promoted":
            move_alias(lora, "live", made, self.volume)
        number = version(made, self.volume).number
        verdict = {"reasons": ["as told"], "figures": {"kl": 0.01 * number}}
        return {"version": number, "verdict": verdict, **told}

    def rebuild(self, version: str, rebuild_id: str) -> str:
        """Make a version like the last one."""
        self.calls.append(("rebuild", version, rebuild_id))
        lora = version.partition("@")[0]
        return save_lora(load_lora(lora, self.volume), lora, {}, self.volume)

    def explain(self, version: str, feedback: str) -> list[TokenRow]:
        """Return one row."""
        self.calls.append(("explain", version, feedback))
        return [TokenRow("well", -2.0, -0.5, 1.5, "well", "hm\n")]

    def diff(self, first: str, second: str) -> Any:
        """Compare two versions, as far as their names go."""
        row = {"change": 2.0, "share": 1.0, "first": 0.0, "second": 2.0, "cosine": 0.0}
        row |= {"rank": 3, "top": 0.51239}
        said = {"id": "ann/7", "kind": "critique", "only_in": second}
        return {
            **{"first": first, "second": second, "total": {**row, "name": "all"}},
            **{"layers": [{**row, "name": name} for name in "ab"]},
            **{"feedback": [said], "gate": {"drift": [None, 0.02]}},
        }

    def forget(
        self, lora: str, feedback: Sequence[str], receipts: Sequence[str], name: str
    ) -> Any:
        """Make a version like the first one, as the worker would."""
        self.calls.append(("forget", lora, feedback, receipts))
        return {"outcome": "forgotten", "version": 0, "removed": [1]}

    def watch(self, lora: str) -> None:
        """Take nothing back."""
        self.calls.append(("watch", lora))

    def lend(self, version: str) -> None:
        """Take note of it."""
        self.lent.append(version)

    def switch(self, lora: str, to: str | None) -> Any:
        """Switch."""
        self.calls.append(("switch", lora, to))
        move_alias(lora, "live", version(to or lora, self.volume).id, self.volume)

    def retire(self) -> None:
        """Take note of it."""
        self.retired.set()

    def close(self) -> None:
        """Let an update that waits end."""
        self.gate.set()


@contextlib.contextmanager
def serving(app: FastAPI) -> Generator[str]:
    """Serve an app on loopback, from a thread; give its address."""
    config = uvicorn.Config(
        app, port=0, log_config=None, timeout_graceful_shutdown=1, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the app did not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def until(what: Callable[[], Any], patience: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.01)


def make_base(folder: Path) -> Path:
    """Write a config of a tiny model, all that an adapter's shapes need."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def settings_for(folder: Path, url: str, **more: Any) -> Settings:
    """Return settings of a server in a folder."""
    return read_settings(
        server_url=url,
        server_key=SERVER_KEY,
        users=KEYS,
        base_model=str(make_base(folder / "base")),
        base_name=BASE,
        storage=folder / "loras",
        training={"rank": 2},
        **more,
    )


@dataclass
class Claas:
    """Claas as it is served.

    Args:
        url: Where it is.
        settings: What it was told.
        trainer: Its trainer.
        upstream: Its inference server.
        app: The app itself.
        database: Its database, through a connection of the test's.
    """

    url: str
    settings: Settings
    trainer: FakeTrainer
    upstream: FakeVllm
    app: FastAPI
    database: Database

    @contextlib.contextmanager
    def client(self, user: str = "ann") -> Generator[httpx.Client]:
        """Give a user's client."""
        headers = {"Authorization": f"Bearer {KEYS[user]}"} if user else {}
        with httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False
        ) as found:
            yield found


@contextlib.contextmanager
def claas_at(
    folder: Path, upstream: FakeVllm, url: str, **more: Any
) -> Generator[Claas]:
    """Serve claas in front of an inference server."""
    settings = settings_for(folder, url, **more)
    trainer = FakeTrainer(LocalVolume(settings.storage))
    app = create_app(settings, trainer)
    with (
        serving(app) as found,
        contextlib.closing(Database(settings.database_path)) as database,
    ):
        yield Claas(found, settings, trainer, upstream, app, database)
