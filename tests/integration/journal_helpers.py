"""What the tests of the journal share: runs with a journal, and a look into it."""

import json
import random
from collections.abc import Callable
from typing import Any

from tests.integration.engine_helpers import echo, virtually

from inf_engine import Engine, InferenceModule
from inf_engine.journal import JournalStore, Row
from inf_engine.types import LLMRequest


def ran(
    path: Any,
    module: InferenceModule,
    *args: Any,
    client: Any = None,
    clients: Any = None,
    **options: Any,
) -> Any:
    """Run a module once with a journal; return what it gives."""

    async def main() -> Any:
        given = clients or {"m": client}
        async with Engine(given, progress=False, journal=path, **options) as engine:
            return await engine.run(module, *args)

    return virtually(main)


def mapped(
    path: Any, module: InferenceModule, inputs: Any, client: Any, **options: Any
) -> Any:
    """Run a module over inputs with a journal; return the results."""

    async def main() -> Any:
        async with Engine({"m": client}, progress=False, journal=path) as engine:
            return await engine.map(module, inputs, **options)

    return virtually(main)


def rows(path: Any) -> list[Row]:
    """What is in a journal."""
    with JournalStore(path, read_only=True) as store:
        return list(store.rows())


def texts(path: Any) -> list[str]:
    """The texts of the answers in a journal."""
    return [json.loads(row.response).get("text", "") for row in rows(path)]


def shuffled(seed: int, answer: Callable[[LLMRequest], Any] | None = None) -> Any:
    """A client whose answers come in an order that the seed decides."""
    rng = random.Random(seed)
    return echo(lambda request: rng.uniform(0.1, 9.0), answer)


def numbered() -> Any:
    """A client whose answers are all different: a model with a temperature."""
    count = iter(range(10_000))
    return echo(1.0, lambda r: f"{r.prompt} {next(count)}")
