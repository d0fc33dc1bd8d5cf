"""Many inputs: in order, as they finish, from an endless source, token by token.

python examples/05_batch_and_stream.py [resources.toml]
"""

import asyncio
import itertools
from collections.abc import AsyncIterator

from endpoints import resources

from inf_engine import Engine, InferenceModule, LLMInference


class Continue(InferenceModule):
    """Goes on with a text."""

    def __init__(self) -> None:
        super().__init__()
        self.write = LLMInference("fast", temperature=0.0, max_tokens=12)

    def forward(self, start: str) -> str:
        if not start:
            raise ValueError("nothing to go on with")
        return self.write(f"Continue: {start}")


async def arriving() -> AsyncIterator[str]:
    """Give inputs as they arrive, e.g. from a queue."""
    for start in ("One day", "Later", "At last"):
        yield start
        await asyncio.sleep(0)


async def main() -> None:
    async with Engine(resources(), progress=False) as engine:
        module = Continue()

        print("map, in input order, errors collected:")
        starts = ["Once upon a time", "", "It was a dark night"]
        for result in await engine.map(module, starts, errors="collect"):
            shown = result.output if result.ok else f"failed: {result.error}"
            print(f"  {result.index}: {shown!r}")

        print("stream, as they finish, from an async source:")
        async for result in engine.stream(module, arriving()):
            print(f"  {result.index}: {result.unwrap()!r} in {result.seconds:.1f} s")

        print("stream, from an endless source, until we have enough:")
        numbers = (f"Chapter {number}:" for number in itertools.count(1))
        enough = 0
        async for result in engine.stream(module, numbers, ordered=True):
            print(f"  {result.index}: {result.unwrap()!r}")
            enough += 1
            if enough == 3:
                break  # stops pulling, cancels what is in flight

        print("urgent, with a time limit:")
        urgent = engine.using(priority=10, timeout=60)
        print(f"  {await urgent.run(module, 'Quick,')!r}")

        print("tokens as they are written:\n  ", end="")
        async for piece in engine.stream_tokens(module, "The sea"):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main())
