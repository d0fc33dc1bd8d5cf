"""Serve a model in three stages, and run the quickstart's pipeline on it.

    python examples/09_butterfly.py [number of reviews]

`butterfly serve --model smollm2 --stages 3` is started as a child process: a head with
OpenAI's API, and three node processes with a third of the layers each. The alias "fast"
is bound to it like to any endpoint, and the pipeline of 01_quickstart.py answers
reviews through it, four by default. Then one request is sent by hand, with
`"butterfly": true`: the answer tells what each stage did for it.

The first start turns the model's GGUF file into safetensors, which takes a minute.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from importlib import import_module
from typing import Any

from inf_engine import Engine

quickstart: Any = import_module("01_quickstart")
COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 4
SERVE = "serve --model smollm2 --stages 3 --port 0"


@contextlib.contextmanager
def butterfly() -> Generator[str, None, None]:
    """Run a server; give its base URL once it serves."""
    with subprocess.Popen(
        [sys.executable, "-m", "butterfly", *SERVE.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = ""
            for line in server.stdout:
                print(line, end="", flush=True)
                if "http://" in line:
                    url = line.split()[1]
                if "ready" in line:
                    break
            else:
                raise SystemExit("the server did not start, see above")
            yield url
        finally:
            server.terminate()  # it sends its nodes home


def ask(url: str, text: str) -> dict[str, Any]:
    """Return the whole answer to a question, with what the stages did."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "temperature": 0,
        "butterfly": True,
    }
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        found: dict[str, Any] = json.load(response)
        return found


async def answer_reviews(url: str) -> None:
    """Run the quickstart's pipeline on the server."""
    lines = quickstart.DATA.read_text("utf-8").splitlines()[:COUNT]
    texts = [json.loads(line)["text"] for line in lines]
    endpoint = {"provider": "openai-compatible", "model": "smollm2", "base_url": url}
    began = time.monotonic()
    async with Engine({"endpoints": {"fast": endpoint}}, progress=True) as engine:
        replies = await engine.map(quickstart.ReplyToReview(), texts)
    print()
    for text, reply in zip(texts, replies, strict=True):
        print(f"{text}\n  {reply.mood:<4} {reply.product}: {reply.answer}\n")
    print(f"{COUNT} reviews in {time.monotonic() - began:.0f} seconds\n")


def show_stages(told: dict[str, Any]) -> None:
    """Print what each stage did for an answer."""
    (trace,) = told["butterfly"]["answers"]
    tokens = told["usage"]["completion_tokens"]
    print(
        f"What the stages did for {tokens} tokens in {trace['frames']} frames, "
        f"the first after {trace['first_token_ms']:.0f} ms:\n\n"
        "  stage   computed    waited   bytes in"
    )
    for hop in trace["hops"]:
        computed, waited = hop["computed_ms"], hop["waited_ms"]
        print(
            f"  {hop['stage']:<7}{computed:>6.0f} ms{waited:>7.0f} ms"
            f"{hop['bytes']:>11,}"
        )


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server ends, too
    with butterfly() as url:
        asyncio.run(answer_reviews(url))
        told = ask(url, "What is the capital of France?")
        print(f"{told['choices'][0]['message']['content']}\n")
        show_stages(told)


if __name__ == "__main__":
    main()
