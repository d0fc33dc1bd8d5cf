"""`measure`: tokens a second of a server that speaks OpenAI's API, and how soon.

A number of streams, a thread each: every one sends its next request as soon as its last
answer has ended, until the time is over; what is still open then is cut off. Only what
came after the first tenth of the time counts, when all streams are on their way.

Tokens are those that the server counts (`usage`, spread over the pieces of an answer),
the pieces of an answer where it does not. Python's own `http.client`, no other library,
so that it runs wherever there is a server to ask.
"""

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from butterfly.errors import ButterflyError, ConfigurationError

_WARM = 0.1  # the share of the time that does not count
_PAUSE = 0.2  # seconds after a request that failed
_PATIENCE = 120.0  # seconds for the next piece
_WORDS = (
    "river stone lamp green morning paper window silver garden train cloud music "
    "winter bread letter house table island summer road yellow bridge story night"
).split()


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to ask, and how often.

    Args:
        url: The address of the API, with or without ``/v1``.
        model: Which model; empty for the first one that the server names.
        streams: How many requests at once.
        seconds: For how long.
        words: How many words a prompt has; each prompt is another one.
        tokens: The most tokens of an answer.
        ignore_eos: Whether answers go on to that length; vLLM and Butterfly know it.
        api_key: What to send as key; empty for nothing.
    """

    url: str
    model: str = ""
    streams: int = 8
    seconds: float = 30.0
    words: int = 64
    tokens: int = 64
    ignore_eos: bool = False
    api_key: str = field(default="", repr=False)


@dataclass(slots=True)
class Answer:
    """One streamed answer.

    Args:
        sent: When the request was sent, seconds of one clock.
        pieces: When each piece with text came.
        tokens: How many tokens it has, None if the server did not say.
        error: Why it failed, empty if it did not.
    """

    sent: float
    pieces: list[float] = field(default_factory=list)
    tokens: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured.

    Args:
        seconds: The time that counts.
        tokens: The tokens that came in it.
        answers: How many answers ended in it.
        first: Seconds to the first piece of those that came in it.
        gaps: Seconds between two pieces.
        failed: What failed requests were told, and how many were.
    """

    seconds: float
    tokens: float
    answers: int
    first: Sequence[float]
    gaps: Sequence[float]
    failed: dict[str, int]

    @classmethod
    def of(cls, answers: Sequence[Answer], began: float, ended: float) -> "Report":
        """Return what some answers say of a time.

        Args:
            answers: The answers.
            began: When it began.
            ended: When it ended.
        """
        tokens, done = 0.0, 0
        first: list[float] = []
        gaps: list[float] = []
        failed: dict[str, int] = {}
        for one in answers:
            if one.error:
                failed[one.error] = failed.get(one.error, 0) + 1
            count = sum(began <= at < ended for at in one.pieces)
            each = 1.0 if one.tokens is None else one.tokens / max(1, len(one.pieces))
            tokens += count * each
            if one.pieces and began <= one.pieces[0] < ended:
                first.append(one.pieces[0] - one.sent)
            is_done = one.tokens is not None and not one.error
            done += bool(is_done and one.pieces and began <= one.pieces[-1] < ended)
            pairs = zip(one.pieces, one.pieces[1:], strict=False)
            gaps += [b - a for a, b in pairs if began <= a and b < ended]
        return cls(ended - began, tokens, done, sorted(first), sorted(gaps), failed)

    def __str__(self) -> str:
        """Return it as lines."""
        lines = [
            f"tokens/s     {self.tokens / self.seconds:.1f}",
            f"first token  {_pair(self.first)}",
            f"next token   {_pair(self.gaps)}",
            f"answers      {self.answers} in {self.seconds:.1f} s",
        ]
        lines += [f"failed       {n} times: {why}" for why, n in self.failed.items()]
        return "\n".join(lines)


def measure(options: BenchOptions) -> Report:
    """Ask a server for a time.

    Args:
        options: What to ask.

    Raises:
        ButterflyError: If the server cannot be reached, or refuses a first request.
        ConfigurationError: If the address is none.
    """
    server = _Server(options)
    model = options.model or server.first_model()
    trial = server.ask(model, _prompt(random.Random(0), options.words), math.inf)
    if trial.error:
        raise ButterflyError(f"{options.url} does not answer: {trial.error}")
    began = time.perf_counter()
    until = began + options.seconds
    answers: list[Answer] = []

    def stream(number: int) -> None:
        chance = random.Random(number + 1)
        while time.perf_counter() < until:
            answer = server.ask(model, _prompt(chance, options.words), until)
            answers.append(answer)
            if answer.error:
                time.sleep(_PAUSE)

    threads = [
        threading.Thread(target=stream, args=(k,)) for k in range(options.streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Report.of(answers, began + _WARM * options.seconds, until)


class _Server:
    """What is asked."""

    def __init__(self, options: BenchOptions) -> None:
        parts = urlsplit(options.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{options.url!r} is no address of a server: name one such as "
                "http://127.0.0.1:8000/v1."
            )
        kinds = http.client.HTTPConnection, http.client.HTTPSConnection
        self._kind = kinds[parts.scheme == "https"]
        self._place = parts.hostname, parts.port
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._options = options
        self._headers = {"Content-Type": "application/json"}
        if options.api_key:
            self._headers["Authorization"] = f"Bearer {options.api_key}"

    def first_model(self) -> str:
        """Return the name of the first model that there is."""
        connection = self._kind(*self._place, timeout=_PATIENCE)
        try:
            connection.request("GET", f"{self._path}/models", headers=self._headers)
            response = connection.getresponse()
            told = response.read()
            if response.status != 200:
                raise ButterflyError(
                    f"{self._options.url} names no models: {_said(response, told)}"
                )
            return str(json.loads(told)["data"][0]["id"])
        except (OSError, http.client.HTTPException) as exc:
            raise ButterflyError(
                f"{self._options.url} cannot be reached: {exc or type(exc).__name__}"
            ) from exc
        except (ValueError, LookupError, TypeError) as exc:
            raise ButterflyError(
                f"{self._options.url} names no models: say which one, with --model."
            ) from exc
        finally:
            connection.close()

    def ask(self, model: str, prompt: str, until: float) -> Answer:
        """Return an answer, or what of it came until a time."""
        connection = self._kind(*self._place, timeout=_PATIENCE)
        answer = Answer(time.perf_counter())
        try:
            body = json.dumps(self._body(model, prompt))
            path = f"{self._path}/chat/completions"
            connection.request("POST", path, body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                answer.error = _said(response, response.read())
                return answer
            for event in _events(response):
                now = time.perf_counter()
                if now >= until:
                    return answer
                _take(answer, event, now)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            answer.error = f"{type(exc).__name__}: {exc}"[:200]
        finally:
            connection.close()
        return answer

    def _body(self, model: str, prompt: str) -> dict[str, Any]:
        o = self._options
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": o.tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return {**body, "ignore_eos": True} if o.ignore_eos else body


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Give the events of a stream as they come."""
    for line in response:
        name, _, data = line.decode("utf-8").strip().partition(":")
        if name == "data" and data.strip() != "[DONE]":
            yield json.loads(data)


def _take(answer: Answer, event: dict[str, Any], now: float) -> None:
    """Add an event to an answer."""
    if "error" in event:
        answer.error = str(event["error"])[:200]
    if any(
        choice.get("delta", {}).get("content") for choice in event.get("choices", ())
    ):
        answer.pieces.append(now)
    if event.get("usage"):
        answer.tokens = int(event["usage"]["completion_tokens"])


def _said(response: http.client.HTTPResponse, told: bytes) -> str:
    """Return what a refusal says."""
    try:
        said = str(json.loads(told)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        said = response.reason
    return f"{response.status} {said}"[:200]


def _prompt(chance: random.Random, words: int) -> str:
    """Return a prompt that no other begins like."""
    return " ".join(chance.choices(_WORDS, k=words))


def _pair(times: Sequence[float]) -> str:
    """Return the median and the 95th percentile of sorted times."""
    if not times:
        return "none"
    at = [times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.95)]
    return f"p50 {at[0] * 1e3:.1f} ms, p95 {at[1] * 1e3:.1f} ms"
