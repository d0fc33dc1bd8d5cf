"""Fake clients: scripted answers, or a function of the request."""

import asyncio
import dataclasses
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from inf_engine.errors import InfEngineError, UsageError
from inf_engine.types import LLMRequest, LLMResponse, Usage


class FunctionClient:
    """A client that answers with what a function gives for the request.

    It counts every request, and how many were open at the same time.

    Args:
        answer: Takes the `LLMRequest`; gives text, an `LLMResponse`, an exception to
            raise, or what is sent as JSON: a dict, a list, a dataclass or a pydantic
            object. May be async.
        latency: Seconds on the loop's clock before it answers, or a function of the
            request that gives them.

    Attributes:
        requests: The requests, in order of arrival.
        arrivals: When they arrived, seconds on the loop's clock.
        in_flight: How many are open.
        max_in_flight: The most that were open at once.
        cancelled: How many were cancelled.
        closed: Whether `aclose` was called.
    """

    def __init__(
        self,
        answer: Callable[[LLMRequest], Any],
        latency: float | Callable[[LLMRequest], float] = 0.0,
    ) -> None:
        self._answer = answer
        self._latency = latency
        self.requests: list[LLMRequest] = []
        self.arrivals: list[float] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.cancelled = 0
        self.closed = False

    @property
    def prompts(self) -> list[str]:
        """The last user message of each request."""
        return [request.prompt for request in self.requests]

    async def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer one request."""
        self._arrive(request)
        try:
            await asyncio.sleep(self._seconds(request))
            answer = self._answer(request)
            if inspect.isawaitable(answer):
                answer = await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        return _as_response(answer, request)

    async def stream(self, request: LLMRequest) -> AsyncIterator[str | LLMResponse]:
        """Answer one request word by word."""
        response = await self.complete(request)
        for piece in _words(response.text):
            yield piece
            await asyncio.sleep(0)
        yield response

    async def aclose(self) -> None:
        """Note that the client was closed."""
        self.closed = True

    def _seconds(self, request: LLMRequest) -> float:
        latency = self._latency
        return latency if isinstance(latency, (int, float)) else latency(request)

    def _arrive(self, request: LLMRequest) -> None:
        self.requests.append(request)
        self.arrivals.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)


class ScriptedClient(FunctionClient):
    """A client that gives its answers one after the other.

    Args:
        answers: What a `FunctionClient` may answer, one a request.
        latency: Seconds on the loop's clock before each answer.

    Raises:
        UsageError: If the answers are one text instead of a list.
    """

    def __init__(
        self,
        answers: Iterable[Any],
        latency: float | Callable[[LLMRequest], float] = 0.0,
    ) -> None:
        if isinstance(answers, (str, bytes, Mapping)) or not isinstance(
            answers, Iterable
        ):
            raise UsageError(
                "a ScriptedClient takes a list with an answer for each request, not "
                f"{type(answers).__name__}: write ScriptedClient([{answers!r:.60}])."
            )
        self._script = list(answers)
        super().__init__(self._next, latency)

    def _next(self, request: LLMRequest) -> Any:
        if not self._script:
            raise InfEngineError(
                f"this ScriptedClient had {len(self.requests) - 1} answers and was "
                "asked once more. Give it as many answers as the test makes requests."
            )
        return self._script.pop(0)


def _as_response(answer: Any, request: LLMRequest) -> LLMResponse:
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, LLMResponse):
        return answer
    text = _as_text(answer)
    read = sum(len(message.text.split()) for message in request.messages)
    usage = Usage(requests=1, input_tokens=read, output_tokens=len(text.split()))
    return LLMResponse(text=text, usage=usage, model=request.model)


def _as_text(answer: Any) -> str:
    """Return the text of an answer; JSON of what is no text."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, (dict, list)) or _is_object(answer):
        return json.dumps(answer, default=_fields, ensure_ascii=False)
    raise UsageError(
        f"a fake client cannot answer with {type(answer).__name__}. Return text, an "
        "LLMResponse, an exception to raise, or for a structured answer a dict, a "
        "list, a dataclass or a pydantic object."
    )


def _is_object(value: Any) -> bool:
    """Say whether it is a dataclass instance or a pydantic object."""
    if isinstance(value, type):
        return False
    return dataclasses.is_dataclass(value) or hasattr(value, "__pydantic_fields__")


def _fields(value: Any) -> Any:
    """Return the JSON value of what `json` does not know."""
    if not _is_object(value):
        raise UsageError(
            f"a fake client cannot write {type(value).__name__} inside an answer as "
            "JSON. Use text, numbers, lists, dicts, dataclasses or pydantic objects."
        )
    if hasattr(value, "__pydantic_fields__"):
        return value.model_dump(mode="json", by_alias=True)
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _words(text: str) -> list[str]:
    """Return the text in pieces, each word with the space before it."""
    pieces = text.split(" ")
    return [pieces[0], *[f" {piece}" for piece in pieces[1:]]]
