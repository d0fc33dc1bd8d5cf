"""`ResourceManager`: the only road from an alias to a client.

On it, in this order: a slot of the endpoint, the request, and on a failure that may
pass the wait before the next try. A slot is held only while a request is on the wire,
never during that wait.
"""

import asyncio
import inspect
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.local import LocalClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.errors import (
    ConfigurationError,
    EndpointError,
    UnknownAliasError,
)
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.gate import Gate, Order, Ticket
from inf_engine.resources.retry import should_retry, wait_seconds
from inf_engine.types import Client, LLMRequest, LLMResponse, StreamingClient

LOCAL_SLOTS = 4
_UNLIMITED_SLOTS = 64


class Watch:
    """What a caller of `ResourceManager.complete` is told; subclass it to listen.

    Attributes:
        delta: Called with each piece of text; None not to stream.
    """

    __slots__ = ("delta",)

    def __init__(self, delta: Callable[[str], None] | None = None) -> None:
        self.delta = delta

    def sent(self) -> None:
        """Take note: the request leaves. Called for each try."""

    def received(self, outcome: LLMResponse | Exception) -> None:
        """Take note of how a try ended."""


@dataclass(slots=True)
class _Endpoint:
    """An alias, its client once it is needed, and its slots."""

    alias: str
    config: EndpointConfig | None
    client: Any
    gate: Gate

    @property
    def retries(self) -> int:
        return self.config.retries if self.config else 2

    def open(
        self, environ: Mapping[str, str], clients: dict[EndpointConfig, Any]
    ) -> None:
        """Make the client, on first use; equal endpoints share one."""
        if self.client is None and self.config is not None:
            if self.config not in clients:
                clients[self.config] = make_client(self.alias, self.config, environ)
            self.client = clients[self.config]


class ResourceManager:
    """Binds aliases to clients and sends every request through their limits.

    Args:
        resources: A path, a dict or a `ResourceConfig` that describes endpoints, or a
            dict of alias → client (or `EndpointConfig`).
        environ: Where API keys are looked up; ``os.environ`` if None.

    Raises:
        ConfigurationError: If the description is wrong.
    """

    def __init__(
        self, resources: Any, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._endpoints: dict[str, _Endpoint] = {}
        gates: dict[EndpointConfig, Gate] = {}
        for alias, (config, client) in _bound(resources).items():
            gate = Gate(None)
            if config is not None:
                gate = gates.setdefault(config, Gate(_limit(config)))
            self._endpoints[alias] = _Endpoint(alias, config, client, gate)
        self._clients: dict[EndpointConfig, Any] = {}
        self._random = random.Random()

    @property
    def aliases(self) -> tuple[str, ...]:
        """The aliases that are bound, in order."""
        return tuple(self._endpoints)

    def check(self, alias: str, where: str = "") -> None:
        """Make sure that requests to an alias can leave; sends nothing.

        Args:
            alias: The alias.
            where: The module that uses it, for the message.

        Raises:
            UnknownAliasError: If it is not bound.
            MissingKeyError: If its API key is not set.
            ConfigurationError: If its client cannot be made (no such model file, an
                extra that is not installed).
        """
        endpoint = self._endpoints.get(alias)
        if endpoint is None:
            raise UnknownAliasError(alias, self._endpoints, where)
        endpoint.open(self._environ, self._clients)

    def slots(self, *aliases: str) -> int:
        """Return how many requests to aliases are worth keeping in flight.

        Aliases of equal endpoints share their slots, which count once.
        """
        gates = {id(gate): gate for gate in (self._endpoints[a].gate for a in aliases)}
        limits = (gate.limit for gate in gates.values())
        return sum(_UNLIMITED_SLOTS if n is None else n for n in limits)

    def queue(self, alias: str, order: Order, start: Callable[[], None]) -> Ticket:
        """Ask for a slot of an alias ahead of `complete`.

        Args:
            alias: The alias, checked.
            order: Who goes first when slots are short: the lowest.
            start: Called when the slot is there; what it starts calls `complete` with
                ``holds_slot=True``, or `give_back`.
        """
        return self._endpoints[alias].gate.request(order, start)

    def leave(self, alias: str, ticket: Ticket) -> None:
        """Withdraw a request for a slot that is not wanted any more."""
        self._endpoints[alias].gate.withdraw(ticket)

    def give_back(self, alias: str) -> None:
        """Give back a slot that was not used."""
        self._endpoints[alias].gate.release()

    def grant(self) -> None:
        """Hand out free slots now: all who are ready have asked."""
        for endpoint in self._endpoints.values():
            endpoint.gate.grant()

    def end(self, ending: bool) -> None:
        """Take note that no more inputs come, or that they do (see `Gate`)."""
        for endpoint in self._endpoints.values():
            endpoint.gate.end(ending)

    async def complete(
        self,
        alias: str,
        request: LLMRequest,
        *,
        order: Any = (),
        retries: int | None = None,
        watch: Watch | None = None,
        holds_slot: bool = False,
    ) -> LLMResponse:
        """Send a request and return its answer.

        Args:
            alias: What to send it to.
            request: The request; a model in it goes before the endpoint's own.
            order: Who goes first when slots are short: the lowest.
            retries: Tries after the first, None for what the endpoint says.
            watch: What to tell the caller on the way.
            holds_slot: Whether the caller has a slot already, from `queue`.

        Raises:
            UnknownAliasError: If the alias is not bound.
            EndpointError: If the last try failed.
        """
        self.check(alias)
        endpoint = self._endpoints[alias]
        watch = watch or Watch()
        allowed = endpoint.retries if retries is None else retries
        attempt = 0
        while True:
            attempt += 1
            if attempt > 1 or not holds_slot:
                await endpoint.gate.acquire(order)
            outcome = await self._attempt(endpoint, request, watch)
            if isinstance(outcome, LLMResponse):
                return outcome
            if not should_retry(outcome, attempt, allowed):
                raise outcome
            wait = wait_seconds(outcome, attempt, self._random.random())
            await asyncio.sleep(wait)

    async def _attempt(
        self, endpoint: _Endpoint, request: LLMRequest, watch: Watch
    ) -> LLMResponse | EndpointError:
        """Send once, on a slot that is given back after it."""
        try:
            watch.sent()
            outcome: LLMResponse | EndpointError
            try:
                answer = _send(endpoint.client, request, watch.delta)
                if inspect.isawaitable(answer):
                    answer = await answer
                outcome = _checked(endpoint.alias, answer)
            except EndpointError as exc:
                outcome = exc
            except Exception as exc:  # of a client that a user handed in
                watch.received(exc)
                raise
        finally:
            endpoint.gate.release()
        watch.received(outcome)
        return outcome

    async def aclose(self) -> None:
        """Close every client that was opened and can be closed, each once.

        Raises:
            Exception: The first failure, once all others are closed.
        """
        clients = {id(e.client): e.client for e in self._endpoints.values()}
        failures = []
        for client in clients.values():
            close = getattr(client, "aclose", None)
            try:
                if close is not None:
                    await close()
            except Exception as exc:  # noqa: BLE001 - raised below
                failures.append(exc)
        if failures:
            raise failures[0]


def make_client(
    alias: str, config: EndpointConfig, environ: Mapping[str, str]
) -> StreamingClient:
    """Return the client of an endpoint; nothing is sent.

    Args:
        alias: The alias, for messages.
        config: The endpoint.
        environ: Where its API key is looked up.

    Raises:
        MissingKeyError: If its API key is not set.
        ConfigurationError: If its model or library is not there.
    """
    if config.provider == "local":
        slots = config.max_concurrent or LOCAL_SLOTS
        extra: dict[str, Any] = {"max_concurrent": slots, "timeout": config.timeout}
        if config.context is not None:
            extra["context"] = config.context
        return LocalClient(config.model, threads=config.threads, **extra)
    key = config.api_key(alias, environ)
    options: dict[str, Any] = {"api_key": key, "timeout": config.timeout}
    options["key_name"] = config.api_key_env
    if config.base_url:
        options["base_url"] = config.base_url
    if config.provider == "anthropic":
        return AnthropicClient(config.model, **options)
    compatible = config.provider == "openai-compatible"
    return OpenAIClient(config.model, compatible=compatible, **options)


def _limit(config: EndpointConfig) -> int | None:
    """Return how many requests an endpoint takes at once."""
    default = LOCAL_SLOTS if config.provider == "local" else None
    return config.max_concurrent or default


def _bound(resources: Any) -> dict[str, tuple[EndpointConfig | None, Any]]:
    """Return the config and the client, whichever is given, of each alias."""
    if isinstance(resources, Mapping) and _is_client_table(resources):
        return {alias: _config_or_client(alias, v) for alias, v in resources.items()}
    if not isinstance(resources, (str, os.PathLike, Mapping, ResourceConfig)):
        raise ConfigurationError(
            "resources must be a path, a dict, a ResourceConfig, a ResourceManager or "
            f"a dict of clients, not {type(resources).__name__}."
        )
    config = ResourceConfig.load(resources)
    return {alias: (endpoint, None) for alias, endpoint in config.endpoints.items()}


def _is_client_table(resources: Mapping[Any, Any]) -> bool:
    values = resources.values()
    if any(callable(getattr(value, "complete", None)) for value in values):
        return True
    is_file = "endpoints" in resources
    return not is_file and not any(isinstance(value, Mapping) for value in values)


def _config_or_client(alias: Any, value: Any) -> tuple[EndpointConfig | None, Any]:
    if isinstance(value, EndpointConfig):
        return value, None
    if not isinstance(alias, str) or not alias:
        raise ConfigurationError(
            f"an alias must be non-empty text, not {alias!r}: it is the name that "
            "modules use."
        )
    if isinstance(value, Mapping):
        return ResourceConfig({alias: value}).endpoints[alias], None
    if isinstance(value, type):
        raise ConfigurationError(
            f"the client of alias {alias!r} is the class {value.__name__}; give an "
            "instance of it."
        )
    if not callable(getattr(value, "complete", None)):
        raise ConfigurationError(
            f"the client of alias {alias!r} must have 'async def complete(request)', "
            f"and {type(value).__name__} has none. Wrap a function in "
            "inf_engine.testing.FunctionClient."
        )
    return None, value


def _send(
    client: Client, request: LLMRequest, delta: Callable[[str], None] | None
) -> Any:
    """Return the answer, or what to await for it."""
    if delta is None:
        return client.complete(request)
    if isinstance(client, StreamingClient):
        return _streamed(client.stream(request), delta)
    return _whole(client.complete(request), delta)


async def _whole(answer: Any, delta: Callable[[str], None]) -> Any:
    """Return the answer of a client that cannot stream: it is one piece."""
    response = await answer if inspect.isawaitable(answer) else answer
    if isinstance(response, LLMResponse) and isinstance(response.text, str):
        delta(response.text)
    return response


def _checked(alias: str, response: Any) -> LLMResponse:
    """Return what a client answered with, if it is an answer."""
    if not isinstance(response, LLMResponse):
        raise ConfigurationError(
            f"the client of alias {alias!r} answered with "
            f"{type(response).__name__}; complete() must return an LLMResponse, e.g. "
            "LLMResponse(text='...'), and stream() must yield one as the last."
        )
    if not isinstance(response.text, str):
        raise ConfigurationError(
            f"the client of alias {alias!r} answered with an LLMResponse "
            f"whose text is of type {type(response.text).__name__}; it must be a str, "
            "'' for none. For a failure, raise an EndpointError."
        )
    return response


async def _streamed(
    pieces: AsyncIterator[str | LLMResponse], delta: Callable[[str], None]
) -> LLMResponse | None:
    response = None
    async for piece in pieces:
        if isinstance(piece, str):
            delta(piece)
        else:
            response = piece
    return response
