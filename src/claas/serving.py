"""`Serving`: the inference server, as the worker asks it; vLLM's documented endpoints.

It is somebody else's process: it is asked over HTTP, and never started or ended.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from claas.errors import ServingError

_CONNECT = 10.0  # seconds
_SHOWN = 300  # characters of what the server says


@dataclass(frozen=True, slots=True)
class Scores:
    """How probable the tokens of a sequence are, each after those before it.

    The first token has no place here: nothing stands before it.

    Args:
        logprobs: Of the tokens themselves, natural, ``[tokens - 1]``.
        indices: The most probable tokens of each place, the first the most probable,
            ``[tokens - 1, top_k]``.
        tops: Their log probabilities, natural, ``[tokens - 1, top_k]``.
    """

    logprobs: tuple[float, ...]
    indices: tuple[tuple[int, ...], ...]
    tops: tuple[tuple[float, ...], ...]


class Serving:
    """The inference server.

    Args:
        base_url: Where it is, with or without ``/v1``.
        api_key: The key that it wants; empty for none.
        timeout: The longest that it may be silent, seconds.
    """

    def __init__(
        self, base_url: str, api_key: str = "", *, timeout: float = 600.0
    ) -> None:
        self.url = server_root(base_url)
        self._client = httpx.Client(
            base_url=self.url,
            headers=key_headers(api_key),
            timeout=httpx.Timeout(timeout, connect=_CONNECT),
            trust_env=False,
        )

    def load(self, name: str, path: str) -> None:
        """Load an adapter; one that is loaded already stays as it is.

        Args:
            name: What requests will call it, as their model.
            path: The folder of PEFT's files, as the server sees it.

        Raises:
            ServingError: If the server refuses, or is not there.
        """
        body = {"lora_name": name, "lora_path": str(path)}
        try:
            self._ask("POST", "/v1/load_lora_adapter", body)
        except ServingError as exc:
            if exc.status != 400 or name not in self.names():
                raise

    def unload(self, name: str) -> None:
        """Unload an adapter; nothing happens if it is not loaded.

        Args:
            name: What requests call it.

        Raises:
            ServingError: If the server refuses, or is not there.
        """
        try:
            self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        except ServingError as exc:
            if exc.status not in (400, 404) or name in self.names():
                raise

    def names(self) -> list[str]:
        """Return the names of what can be asked: the base and adapters.

        Raises:
            ServingError: If the server refuses, or is not there.
        """
        told = self._ask("GET", "/v1/models").json()
        return [str(model["id"]) for model in _dug(told, "data")]

    def tokenize(
        self,
        name: str,
        *,
        text: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        special: bool = False,
    ) -> list[int]:
        """Return the tokens of a text, or of messages up to the answer.

        Args:
            name: The base or an adapter.
            text: The text.
            messages: The messages, where there is no text.
            tools: The tools that the model may call, with messages.
            special: Whether tokens that begin a text are put before it.

        Raises:
            ServingError: If the server refuses, or is not there.
        """
        body: dict[str, Any] = {"model": name, "add_special_tokens": special}
        if messages is None:
            body["prompt"] = text
        else:
            body |= {"messages": list(messages), "add_generation_prompt": True}
            if tools:
                body["tools"] = list(tools)
        told = self._ask("POST", "/tokenize", body).json()
        return [int(token) for token in _dug(told, "tokens")]

    def score(self, ids: Sequence[int], name: str, top_k: int = 0) -> Scores:
        """Return how probable each token is after those before it.

        Args:
            ids: The tokens.
            name: The base or an adapter.
            top_k: How many of the most probable tokens to name at each place.

        Raises:
            ServingError: If the server refuses (it names at most ``--max-logprobs``),
                is not there, or answers nonsense.
        """
        body = {
            "model": name,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top_k,
        }
        told = self._ask("POST", "/v1/completions", body).json()
        rows = _dug(_dug(told, "choices", 0), "prompt_logprobs")
        if not isinstance(rows, list) or len(rows) != len(ids):
            raise _nonsense("'prompt_logprobs' is not a row for each token")
        pairs = zip(ids[1:], rows[1:], strict=True)
        found = [_place(token, row, top_k) for token, row in pairs]
        own, indices, tops = zip(*found, strict=True) if found else ((), (), ())
        return Scores(own, indices, tops)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request; return what came, if it is well."""
        try:
            found = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise unreachable(self.url, exc) from exc
        if found.status_code != 200:
            raise refused(found.status_code, found.content)
        return found


def server_root(url: str) -> str:
    """Return where a server is, without ``/v1``.

    Args:
        url: Where it is, with or without.
    """
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_headers(api_key: str) -> dict[str, str]:
    """Return the headers that send a key.

    Args:
        api_key: The key; empty for none.
    """
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def unreachable(url: str, exc: Exception) -> ServingError:
    """Return the error for a server that does not answer.

    Args:
        url: Where it should be.
        exc: What happened.
    """
    return ServingError(
        f"the inference server at {url} does not answer ({type(exc).__name__}): start "
        "it, or set 'server_url'."
    )


def refused(status: int, content: bytes) -> ServingError:
    """Return the error for a server that refuses.

    Args:
        status: The HTTP status.
        content: What it says.
    """
    said = said_in(content)
    hint = {
        401: " Set 'server_key'.",
        403: " Set 'server_key'.",
        404: " vLLM loads adapters with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True only.",
    }.get(status, "")
    return ServingError(
        f"the inference server refuses ({status}): {said}{hint}", status
    )


def said_in(content: bytes) -> str:
    """Return what an error of OpenAI's form, or of another one, says.

    Args:
        content: The body.
    """
    try:
        body = httpx.Response(200, content=content).json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        inner = body.get("error", body)
        said = inner.get("message", "") if isinstance(inner, dict) else inner
    else:
        said = content.decode("utf-8", "replace")
    return " ".join(str(said).split())[:_SHOWN] or "it does not say why."


def _place(
    token: int, row: Any, top_k: int
) -> tuple[float, tuple[int, ...], tuple[float, ...]]:
    """Return what a place says: the token's own, and the most probable ones."""
    try:
        read = {int(k): float(v["logprob"]) for k, v in row.items()}
        own = read[token]
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise _nonsense("a row of 'prompt_logprobs' lacks its own token") from exc
    if any(math.isnan(value) for value in read.values()):
        raise _nonsense("a log probability is NaN")
    order = sorted(read, key=lambda t: -read[t])[:top_k]
    return own, tuple(order), tuple([read[t] for t in order])


def _dug(body: Any, *path: str | int) -> Any:
    """Return what lies inside an answer."""
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError) as exc:
            raise _nonsense(f"there is no {part!r} in its answer") from exc
    return body


def _nonsense(what: str) -> ServingError:
    return ServingError(
        f"the inference server answers what nobody asked for: {what}. It must be vLLM "
        "0.30 or newer, or butterfly."
    )
