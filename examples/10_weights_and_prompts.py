"""Train the weights behind an alias: one critique, and the model answers otherwise.

    python examples/10_weights_and_prompts.py

Three processes on this machine: `butterfly` serves the small model SmolLM2, `claas`
stands in front of it and remembers every answer, and a pipeline whose alias is an
adapter asks here. It says who made it. `Feedback` says "Your name is Kuro.", `backward`
carries that to the adapter, and `AdapterOptimizer.step` hands it to claas. There the
model, having read the feedback, teaches itself without it; a gate compares the new
version with the old one, on the feedback and on prompts that it is not about; if it
holds, it answers from then on. No prompt changed, and no right answer was ever shown.

It takes minutes on two cores. STEPS=12 trains for a shorter time; what it starts, it
ends. `make setup` and `pip install -e '.[butterfly,claas]'` install what it needs.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.optimization import (
    AdapterOptimizer,
    AdapterParameter,
    Feedback,
    FeedbackBatch,
)

STEPS = int(os.environ.get("STEPS", "20"))
LORA = "ann/tuned"
SAID = "Your name is Kuro."
ASKED = ["What is your name?", "Who are you?", "Introduce yourself.", "Say your name."]
HELD_OUT = ["Tell me your name.", "What should I call you?", "What is 2 + 2?"]


class Assistant(InferenceModule):
    """Question in, answer out."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = AdapterParameter("tuned", "an assistant who knows its name")
        self.answer = LLMInference(self.weights, temperature=0.0, max_tokens=24)

    def forward(self, question: str) -> str:
        return self.answer(question)


@contextmanager
def program(*arguments: str, says: str, **environ: str) -> Iterator[str]:
    """Run a module of Python, wait for a line, give its URL, and end it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = ""
    try:
        for line in process.stdout:
            url = next((w for w in line.split() if w.startswith("http")), url)
            if says in line:
                break
        else:
            raise SystemExit(f"{arguments[0]} ended before it said {says!r}.")
        yield url.removesuffix("/v1")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


@contextmanager
def claas() -> Iterator[str]:
    """Give the URL of claas, in front of butterfly, with an adapter that is new."""
    key, inner = secrets.token_hex(16), secrets.token_hex(16)
    os.environ["CLAAS_API_KEY"] = key
    training = {"steps": STEPS, "tokens": 24, "anchor": 0.3, "drift": 0.05}
    short = {"tokens": 24}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        served = stack.enter_context(
            program(
                *("butterfly", "serve", "--model", "smollm2", "--port", "0"),
                *("--lanes", "4", "--positions", "512"),
                says="ready",
                BUTTERFLY_API_KEY=inner,
            )
        )
        url = stack.enter_context(
            program(
                *("claas", "serve", "--port", "0"),
                says="in front of",
                CLAAS_SERVER_URL=served,
                CLAAS_SERVER_KEY=inner,
                CLAAS_BASE_MODEL="smollm2",
                CLAAS_STORAGE=folder,
                CLAAS_USERS=json.dumps({"ann": key}),
                CLAAS_TRAINING=json.dumps(training),
                CLAAS_TEACHING=json.dumps(short),
                CLAAS_GATE=json.dumps(short),
            )
        )
        headers = {"Authorization": f"Bearer {key}"}
        made = httpx.post(f"{url}/v1/lora", json={"lora": LORA}, headers=headers)
        made.raise_for_status()
        yield url


def tell(update: Any) -> None:
    """Print what came of an update."""
    print(f"\n{update.lora}: {update.state}, version {update.version}")
    for reason in update.reasons:
        print(f"  {reason}")
    training = update.figures.get("training", {})
    if training:
        print(
            f"  {training['steps']} steps, {training['cpu_seconds']:.0f} CPU-seconds, "
            f"{training['memory_mib']:.0f} MiB"
        )
    for name, one in update.figures.get("gate", {}).items():
        print(f"  {name:<11} {one['before']:7.3f} -> {one['after']:7.3f}")


async def main(url: str) -> None:
    module = Assistant()
    endpoint = {
        "provider": "openai-compatible",
        "model": LORA,
        "base_url": f"{url}/v1",
        "api_key_env": "CLAAS_API_KEY",
    }
    began = time.monotonic()
    questions = ASKED + HELD_OUT
    async with Engine({"endpoints": {"tuned": endpoint}}, progress=False) as engine:
        before = await engine.map(module, questions, record=True)
        asked = before[: len(ASKED)]
        batch = FeedbackBatch([Feedback(SAID, 0.0, record=r.record) for r in asked])
        await batch.backward()
        step = await AdapterOptimizer(module.parameters(), url=url).step()
        after = await engine.map(module, questions)
    print(f"{len(step.lessons)} answers were criticised: {SAID}")
    for update in step.updates:
        tell(update)
    for number, question in enumerate(questions):
        held = " (held out)" if number >= len(ASKED) else ""
        print(f"\n{question}{held}")
        print(f"  before: {before[number].output!r}\n  after:  {after[number].output!r}")
    print(f"\n{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    with claas() as place:
        asyncio.run(main(place))
