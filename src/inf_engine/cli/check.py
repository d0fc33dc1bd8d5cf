"""``inf-engine check``: whether each endpoint of a resources file answers."""

import argparse
import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from inf_engine.cli.console import show, table
from inf_engine.errors import InfEngineError
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.manager import ResourceManager
from inf_engine.types import LLMRequest, Message

_MAX_TOKENS = 16  # a reasoning model may refuse to answer with fewer
_PING = LLMRequest(messages=(Message("user", "Say ok."),), max_tokens=_MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class _Place:
    """One deployment of an alias, under the name that it is told by."""

    name: str
    alias: str
    config: EndpointConfig


def check(args: argparse.Namespace) -> int:
    """Ask each deployment of each alias for a word; return 1 if one failed, else 0.

    Args:
        args: The parsed command line.

    Raises:
        ConfigurationError: If the file is wrong.
    """
    config = ResourceConfig.load(args.resources)
    places = list(_places(config))
    if args.no_call:
        told = [_key_of(place) for place in places]
    else:
        told = asyncio.run(_all_called(places, args.timeout))
    rows = [
        (place.name, place.config.provider, place.config.model or "-", said)
        for place, (_, said) in zip(places, told, strict=True)
    ]
    for line in table(rows):
        show(line)
    return 0 if all(is_well for is_well, _ in told) else 1


def _places(config: ResourceConfig) -> Iterator[_Place]:
    for alias, endpoint in config.endpoints.items():
        each = endpoint.each
        for number, deployment in enumerate(each):
            name = alias if len(each) == 1 else f"{alias}[{number}]"
            yield _Place(name, alias, deployment)


def _key_of(place: _Place) -> tuple[bool, str]:
    """Say whether the key of a deployment is set."""
    try:
        key = place.config.api_key(place.alias, os.environ)
    except InfEngineError as exc:
        return False, _failed(exc)
    return True, "key is set" if key is not None else "needs no key"


async def _all_called(places: list[_Place], limit: float) -> list[tuple[bool, str]]:
    """Ask all deployments at once, each at most `limit` seconds."""
    return await asyncio.gather(*[_called(place, limit) for place in places])


async def _called(place: _Place, limit: float) -> tuple[bool, str]:
    """Ask a deployment for a word, once; say what came of it."""
    config = replace(place.config, retries=0, timeout=min(limit, place.config.timeout))
    manager = ResourceManager(ResourceConfig({place.alias: config}))
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await manager.complete(place.alias, _PING)
        return True, f"ok, {(loop.time() - began) * 1000:,.0f} ms"
    except InfEngineError as exc:
        return False, _failed(exc)
    finally:
        await manager.aclose()


def _failed(exc: InfEngineError) -> str:
    line = str(exc).strip().split("\n", 1)[0]
    return f"FAILED: {type(exc).__name__}: {line}"
