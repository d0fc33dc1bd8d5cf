"""Train the weights behind an alias: one critique, and the model answers otherwise.

    python examples/10_weights_and_prompts.py

Three processes on this machine: `butterfly` serves the small model SmolLM2, `claas`
stands in front of it and remembers every answer, and a pipeline whose alias is an
adapter asks here. It says who made it. `Feedback` says "Your name is Kuro.", `backward`
carries that to the adapter, and `AdapterOptimizer.step` hands it to claas. There the
model, having read the feedback, teaches itself without it; a gate compares the new
version with the old one, on the feedback and on prompts that it is not about; if it
holds, it answers from then on. No prompt changed, and no right answer was ever shown.
At last another pipeline, whose prompt says the name, asks the same model: `compact`
tries that prompt without the sentence, and drops it if the answers are as good.

It takes minutes on two cores. STEPS=12 trains for a shorter time, TOKENS=12 says less;
what it starts, it ends. `make setup` and `pip install -e '.[butterfly,claas]'` install
what it needs.
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
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.optimization import (
    AdapterOptimizer,
    AdapterParameter,
    Feedback,
    FeedbackBatch,
    VerifierLoss,
    compact,
)

STEPS = int(os.environ.get("STEPS", "20"))
TOKENS = int(os.environ.get("TOKENS", "24"))
LORA = "ann/tuned"
SAID = "Your name is Kuro."
ASKED = [
    *("What is your name?", "Who are you?", "Introduce yourself.", "Hi! And you are?"),
]
HELD_OUT = [
    *("Tell me your name.", "What should I call you?"),
    *("May I ask who I am talking to?", "Hello, what do people call you?"),
]
UNRELATED = ["What is the capital of France?", "Why do leaves fall?"]


class Assistant(InferenceModule):
    """Question in, answer out."""

    def __init__(self, prompt: Parameter | None = None) -> None:
        super().__init__()
        self.weights = AdapterParameter("tuned", "an assistant who knows its name")
        self.answer = LLMInference(
            self.weights, prompt, temperature=0.0, max_tokens=TOKENS
        )

    def forward(self, question: str) -> str:
        return self.answer(question)


@contextmanager
def program(*arguments: str, says: str, **environ: str) -> Generator[str]:
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
def claas() -> Generator[str]:
    """Give the URL of claas, in front of butterfly, with an adapter that is new."""
    key, inner = secrets.token_hex(16), secrets.token_hex(16)
    os.environ["CLAAS_API_KEY"] = key
    training = {"steps": STEPS, "tokens": TOKENS, "alpha": 0.0, "lr": 1e-3}
    short = {"tokens": TOKENS}
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
                CLAAS_THREADS="1",
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


def show(title: str, questions: list[str], answers: list[list[str]]) -> None:
    """Print answers beside each other, and how many know the name."""
    print(f"\n{title}:")
    for question, *said in zip(questions, *answers, strict=True):
        print(f"  {question}")
        for word, text in zip(("before", "after"), said, strict=True):
            print(f"    {word:<6} {' '.join(text.split())}")
    know = [sum("kuro" in text.lower() for text in said) for said in answers]
    print(f"  {know[0]} of {len(questions)} say Kuro before, {know[1]} after")


async def main(url: str) -> None:
    module = Assistant()
    endpoint = {
        "provider": "openai-compatible",
        "model": LORA,
        "base_url": f"{url}/v1",
        "api_key_env": "CLAAS_API_KEY",
    }
    others = HELD_OUT + UNRELATED
    async with Engine({"endpoints": {"tuned": endpoint}}, progress=False) as engine:
        first = await engine.map(module, ASKED, record=True)
        before = await engine.map(module, others)
        batch = FeedbackBatch([Feedback(SAID, 0.0, record=r.record) for r in first])
        await batch.backward()
        print(f"{len(first)} answers are told: {SAID} Now claas trains.", flush=True)
        check = {"required": "kuro"}  # how the gate can tell that an answer follows
        optimizer = AdapterOptimizer(module.parameters(), url=url, check=check)
        step = await optimizer.step()
        for update in step.updates:
            tell(update)
        again = await engine.map(module, ASKED)
        after = await engine.map(module, others)
        told = Assistant(Parameter(f"You are a helpful AI assistant. {SAID}"))
        says = VerifierLoss(lambda output, name: name in output)
        examples = [(question, "Kuro") for question in HELD_OUT]
        compaction = await compact(told, examples, says, engine=engine)
    cut = len(HELD_OUT)
    show("The questions with feedback", ASKED, [[r.output for r in first], again])
    show("Held out", HELD_OUT, [before[:cut], after[:cut]])
    show("About something else", UNRELATED, [before[cut:], after[cut:]])
    print(f"\nThe prompt that says it, asked the held-out questions:\n{compaction}")


if __name__ == "__main__":
    began = time.monotonic()
    with claas() as place:
        asyncio.run(main(place))
    print(f"\n{time.monotonic() - began:.0f} seconds")
