"""Train with TextGrad: its graph, its backward, its TGD.

It has steps and leaves the rest to its user; its tutorials validate after each step and
take a step back that made things worse. Tuned: 8 orders a step, only those that went
wrong in the loss (the reflector has nothing to say about the others); a tie stays; 20
validation orders; the metric's message is the gradient of the answer itself, by a
`Function` of ours: a `TextLoss`, or a `StringBasedFunction`, would ask the model to
repeat it, and each time some of it is lost. (Mean of one, pipeline, chain and
contradictory at 400, 3 other seeds: 20 validation orders 0.77, 10 0.75, 30 0.72; 20 and
a gate on the batch 0.76, 20 and 4 orders a step 0.77; 10 and a gradient memory of 3
0.67.)

TextGrad's gradients are sets, whose order differs from run to run: the figures do, too.
"""

import os
from typing import Any

import textgrad as tg  # ty: ignore[import-not-found]
from textgrad.autograd.function import (  # ty: ignore[import-not-found]
    BackwardContext,
    Function,
)
from textgrad.autograd.llm_ops import (  # ty: ignore[import-not-found]
    FormattedLLMCall,
)
from textgrad.engine_experimental.openai import (  # ty: ignore[import-not-found]
    OpenAIEngine,
)
from work import KEY, Order, Prompts, Work, climbed, main

SETTINGS: dict[str, Any] = {"batch": 8, "val": 20, "gate": False, "gradient_memory": 0}


class Verified(Function):
    """The metric as a loss: what it says is the gradient of the answer."""

    def forward(self, answer: tg.Variable, message: str) -> tg.Variable:
        """Return the message."""
        loss = tg.Variable(
            message, role_description="the verdict", predecessors=[answer]
        )
        loss.set_grad_fn(BackwardContext(self.backward, answer=answer, message=message))
        return loss

    def backward(self, answer: tg.Variable, message: str, backward_engine: Any) -> None:
        """Hand the message on, without a call."""
        role = f"feedback to {answer.get_role_description()}"
        answer.gradients.add(tg.Variable(message, role_description=role))


class Step:
    """One step: orders through the graph, backward, and TGD."""

    def __init__(self, work: Work, settings: dict[str, Any]) -> None:
        self._work = work
        # Its OpenAICompatibleEngine puts a client of its own over the one it is given.
        os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = work.url, KEY
        task = OpenAIEngine("task", cache=False)
        reflector = OpenAIEngine("reflector", cache=False)
        tg.set_backward_engine(reflector, override=True)
        self._prompts = {
            stage: tg.Variable(text, role_description=f"system prompt of {stage}")
            for stage, text in work.start.items()
        }
        forms = [("{order}", ["order"]), *[("{order}\n{slip}", ["order", "slip"])] * 2]
        self._first, *self._rest = [
            FormattedLLMCall(task, form, dict.fromkeys(names), prompt)
            for prompt, (form, names) in zip(
                self._prompts.values(), forms, strict=False
            )
        ]
        self._optimizer = tg.TGD(
            parameters=list(self._prompts.values()),
            engine=reflector,
            gradient_memory=settings["gradient_memory"],
        )

    def _answer(self, order: Order) -> tg.Variable:
        """Run the graph on an order."""
        given = tg.Variable(
            order.text, requires_grad=False, role_description="the order"
        )
        answer = self._first({"order": given}, "what the first stage hands on")
        for call in self._rest:
            answer = call({"order": given, "slip": answer}, "what a stage hands on")
        return answer

    def __call__(self, prompts: Prompts, orders: list[Order]) -> tuple[float, Prompts]:
        """Return the sum of the scores, and the new prompts."""
        for stage, text in prompts.items():
            self._prompts[stage].set_value(text)
        self._optimizer.zero_grad()
        total, losses = 0.0, []
        for order in orders:
            answer = self._answer(order)
            score, message = self._work.score(order.id, answer.value)
            total += score
            if score < 1.0:
                losses.append(Verified()(answer, message))
        if losses:
            tg.sum(losses).backward()
            self._optimizer.step()
        return total, {stage: text.value for stage, text in self._prompts.items()}


def train(work: Work) -> tuple[Prompts, dict[str, Any]]:
    """Return the best prompts."""
    settings = {**SETTINGS, **work.settings}
    how = {name: settings[name] for name in ("batch", "val", "gate")}
    return climbed(work, Step(work, settings), **how), settings


if __name__ == "__main__":
    main(train, "textgrad")
