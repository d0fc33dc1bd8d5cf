"""What an alias is bound to: a config or a client, and the client of a config."""

import os
from collections.abc import Mapping
from typing import Any

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.local import LocalClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.sdk import from_sdk, is_sdk
from inf_engine.errors import ConfigurationError
from inf_engine.resources.checks import (
    Problem,
    endpoint_problems,
    fallback_problems,
    refusal,
)
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.types import StreamingClient

LOCAL_SLOTS = 4
"""How many requests a local model answers at once, if nothing else is said."""


def slots_of(config: EndpointConfig) -> int | None:
    """Return how many requests an endpoint takes at once, if anybody said so."""
    default = LOCAL_SLOTS if config.provider == "local" else None
    return config.max_concurrent or default


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
        extra: dict[str, Any] = {"timeout": config.timeout}
        extra["max_concurrent"] = slots_of(config)
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


def bound(resources: Any) -> dict[str, tuple[EndpointConfig | None, Any]]:
    """Return the config and the client, whichever is given, of each alias."""
    if isinstance(resources, Mapping) and _is_client_table(resources):
        found = {alias: _config_or_client(alias, v) for alias, v in resources.items()}
        _check_fallbacks(found)
        return found
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


def _check_fallbacks(found: Mapping[str, tuple[EndpointConfig | None, Any]]) -> None:
    """Refuse a fallback to an alias that is not there."""
    problems: list[Problem] = []
    for alias, (config, _) in found.items():
        if config is not None:
            wrong = fallback_problems(alias, config.fallbacks, found)
            problems += [(f"endpoints.{alias}.{field}", what) for field, what in wrong]
    if problems:
        raise refusal("resources", problems)


def _config_or_client(alias: Any, value: Any) -> tuple[EndpointConfig | None, Any]:
    if isinstance(value, EndpointConfig):
        return value, None
    if not isinstance(alias, str) or not alias:
        raise ConfigurationError(
            f"an alias must be non-empty text, not {alias!r}: it is the name that "
            "modules use."
        )
    if isinstance(value, Mapping):
        return _one(alias, value), None
    if is_sdk(value):
        return None, from_sdk(value)
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


def _one(alias: str, table: Mapping[str, Any]) -> EndpointConfig:
    """Return the endpoint of a table; its fallbacks are checked with all aliases."""
    problems = endpoint_problems(table)
    if problems:
        places = [(f"endpoints.{alias}.{field}", what) for field, what in problems]
        raise refusal("resources", places)
    return EndpointConfig(**table)
