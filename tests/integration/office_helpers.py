"""A training in which models do everything: work, judge, criticise and rewrite.

As in `trainer_helpers` the task model is right about an example if its prompt states
the rule of the example's kind. Judge and critic say which kind an example is about, and
the rewriter adds the rule of a kind that it is shown. All of them count.
"""

import re
from collections.abc import Callable
from typing import Any

from tests.integration.engine_helpers import virtually
from tests.integration.trainer_helpers import Worker, examples, work

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.optimization import (
    ReflectiveEvolution,
    TextGradientDescent,
    Trainer,
    TrainingResult,
    VerifierLoss,
)
from inf_engine.optimization.trajectory import TrainingFinished
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

Answer = Callable[[LLMRequest], Any]

TRAIN, VAL = examples(16), examples(12, first=100)
OPTIMIZERS: list[Any] = [TextGradientDescent, ReflectiveEvolution]

TEXTS = re.compile(r"# The text of (\S+)\n.*?```\n(.*?)\n```", re.DOTALL)
_SECTION = "# {}\n\n```\n(.*?)\n```"


class Chain(InferenceModule):
    """Two calls at once, and one that sees what both gave; each with a prompt."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("left", "right", "join"):
            rules = Parameter("Answer.", description=f"what {name} does")
            setattr(self, name, LLMInference("m", rules))

    def forward(self, question: str) -> str:
        both = f"{self.left(question)}, {self.right(question)}"
        return self.join(f"{question}\n{both}")


def rewrite(request: LLMRequest) -> Any:
    """The rewriter: adds the rule of a kind that it was told of, in any format."""
    told = dict.fromkeys(re.findall(r"about kind (\d+)", request.prompt))
    texts = dict(TEXTS.findall(request.prompt))
    present = " ".join(texts.values())
    new = [kind for kind in told if f"rule {kind}." not in present]
    rule = f"Use rule {new[0]}." if new else "Be kind."
    if request.response_schema is None:
        return f"```\n{next(iter(texts.values()))} {rule}\n```"
    if "texts" in str(request.response_schema.schema):
        return {
            "texts": [
                {"name": n, "text": f"{text} {rule}", "reason": "it was missing"}
                for n, text in texts.items()
            ]
        }
    edit = {"find": "", "replace": rule, "reason": "it was missing"}
    several = [{"name": name, **edit} for name in texts]
    return {"edits": several if len(texts) > 1 else [edit]}


def criticise(request: LLMRequest) -> Any:
    """The critic: names the rule of each kind that went wrong."""
    kinds = dict.fromkeys(re.findall(r"about kind (\d+)", request.prompt))
    said = ", ".join(f"about kind {kind}" for kind in kinds)
    names = re.findall(r"## Parameter '(\S+)'", request.prompt)
    notes = [{"parameter": n, "note": f"CRITIC: state rules {said}"} for n in names]
    return {"parameters": notes, "inputs": []}


def shown(request: LLMRequest, heading: str) -> str:
    """What a judge is shown under a heading."""
    found = re.search(_SECTION.format(heading), request.prompt, re.DOTALL)
    return found[1] if found else ""


def judge(request: LLMRequest) -> Any:
    """The judge, of every kind of loss: by whether the output is the target."""
    output, target = shown(request, "Output"), shown(request, "What the output .*?")
    reason = f"this is about {target}"
    assert request.response_schema is not None
    fields = request.response_schema.schema["properties"]
    if "better" in fields:
        answers = {name: shown(request, f"Answer {name}") for name in "AB"}
        reason = f"this is about {max(answers.values(), key=is_target)}"
        right = [name for name, text in answers.items() if is_target(text)]
        return {"reason": reason, "better": right[0] if len(right) == 1 else "same"}
    if "score" in fields:
        return {"reason": reason, "score": float(output == target)}
    return {"reason": reason, "level": 2 if output == target else 1}


def is_target(text: str) -> bool:
    """Whether a text is what an output should be."""
    return text.startswith("kind ")


@VerifierLoss
def right(output: str, target: str) -> tuple[bool, str]:
    """A loss without a model."""
    return output == target, f"this is about {target}"


class Office:
    """Clients that count, an engine over them, and a module."""

    def __init__(self, module: Any = None, **answers: Answer) -> None:
        roles = {"m": work, "r": rewrite, "critic": criticise, "judge": judge}
        self.clients = {
            name: FunctionClient(answer, 1.0)
            for name, answer in {**roles, **answers}.items()
        }
        self.module = Worker() if module is None else module
        self.events: list[Any] = []
        self.seen: list[dict[str, Any]] = []

    def heard(self, event: Any) -> None:
        """Keep an event, and what the module had then; in the end it has the best."""
        self.events.append(event)
        if not isinstance(event, TrainingFinished):
            self.seen.append(self.module.state_dict())

    def count(self, *names: str) -> int:
        """How many requests reached clients, all of them if none is named."""
        return sum(len(self.clients[n].requests) for n in names or self.clients)

    def prompts(self, name: str) -> list[str]:
        """What a client was asked."""
        return self.clients[name].prompts

    def train(
        self,
        of: Any = TextGradientDescent,
        loss: Any = right,
        train: Any = TRAIN,
        val: Any = VAL,
        engine: Any = None,
        params: Any = None,
        **options: Any,
    ) -> TrainingResult:
        """Train the module on a virtual clock."""

        async def main() -> TrainingResult:
            kept: Any = {"retries": 0, **(engine or {})}
            async with Engine(self.clients, progress=False, **kept) as running:
                optimizer = of(self.module.parameters(), alias="r", **(params or {}))
                trainer = Trainer(
                    running,
                    self.module,
                    loss,
                    optimizer,
                    callbacks=[self.heard],
                    **options,
                )
                return await trainer.fit(train, val)

        before = self.module.state_dict()
        try:
            found: TrainingResult = virtually(main)
        finally:  # nothing is written before the end
            assert all(state == before for state in self.seen)
            assert not any(p.feedback for p in self.module.parameters())
        return found
