"""Train with Trace (trace-opt): its graph, and OptoPrime.

It has steps and leaves the rest to its user; the loop, with validation, is that of
TextGrad. Tuned: 8 orders a step, put together as its guide does for batches; a tie
stays; 15 validation orders; no memory of past feedback. (Mean of one, noisy and chain
at 400, 3 other seeds: 15 validation orders 0.96, 10 0.93, 5 0.91; 15 and a memory of 3
0.91, a gate on the batch 0.95, 6 orders a step 0.87. 12 orders a step are as good as 8:
0.94 for the six families, 7 seeds.)

Trace walks sets of nodes, whose order differs from run to run: the figures do, too.
"""

from functools import partial
from typing import Any

from openai import OpenAI
from opto.optimizers import OptoPrime  # ty: ignore[import-not-found]
from opto.trace import GRAPH, bundle, node  # ty: ignore[import-not-found]
from opto.utils.llm import AbstractModel  # ty: ignore[import-not-found]
from work import KEY, Order, Prompts, Work, climbed, main, told

SETTINGS: dict[str, Any] = {"batch": 8, "val": 15, "gate": False, "memory_size": 0}


class Step:
    """One step: orders through the graph, the feedback back, and OptoPrime."""

    def __init__(self, work: Work, settings: dict[str, Any]) -> None:
        self._work = work
        GRAPH.clear()  # its names are numbered over all trainings
        client = OpenAI(base_url=work.url, api_key=KEY, max_retries=0)
        self._prompts = {
            stage: node(text, trainable=True, name=f"{stage}_prompt")
            for stage, text in work.start.items()
        }

        @bundle()
        def call(system: str, user: str) -> str:
            """Ask a language model, by a system prompt and a user message."""
            return work.chat("task", told(system, user))

        @bundle()
        def both(order: str, slip: str) -> str:
            """Put an order and a slip together."""
            return f"{order}\n{slip}"

        @bundle()
        def batched(*answers: str) -> str:
            """Put the answers of a batch together."""
            return "\n".join(f"ID {n}: {text}" for n, text in enumerate(answers))

        self._call, self._both, self._batched = call, both, batched
        create = client.chat.completions.create
        model = partial(create, model="reflector", temperature=0)
        self._optimizer = OptoPrime(
            list(self._prompts.values()),
            llm=AbstractModel(lambda: model),
            memory_size=settings["memory_size"],
            log=False,
        )

    def __call__(self, prompts: Prompts, orders: list[Order]) -> tuple[float, Prompts]:
        """Return the sum of the scores, and the new prompts."""
        for stage, text in prompts.items():
            self._prompts[stage]._set(text)
        total, answers, messages = 0.0, [], []
        for number, order in enumerate(orders):
            given = order_node = node(order.text)
            for prompt in self._prompts.values():
                answer = self._call(prompt, given)
                given = self._both(order_node, answer)
            score, message = self._work.score(order.id, answer.data)
            total += score
            answers.append(answer)
            messages.append(f"ID {number}: {message}")
        if total < len(orders):
            target = self._batched(*answers)
            self._optimizer.zero_feedback()
            self._optimizer.backward(target, "\n".join(messages))
            self._optimizer.step()
        return total, {stage: text.data for stage, text in self._prompts.items()}


def train(work: Work) -> tuple[Prompts, dict[str, Any]]:
    """Return the best prompts."""
    settings = {**SETTINGS, **work.settings}
    how = {name: settings[name] for name in ("batch", "val", "gate")}
    return climbed(work, Step(work, settings), **how), settings


if __name__ == "__main__":
    main(train, "trace-opt")
