"""What the tests of the trainer share: a small world that can be learned, and fakes.

An example has a kind. The model is right about it if its system prompt states the rule
of that kind. The rewriter adds the rule of a kind that it is shown, or now and then one
that does not exist; what it does follows from what it is asked.
"""

import zlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.optimization.acceptance import accept
from inf_engine.optimization.feedback import Feedback, FeedbackBatch
from inf_engine.optimization.search import Candidate, Change, Scores, Search
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

START = "Answer the question."


class Worker(InferenceModule):
    """One call with a trainable system prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Parameter(START, description="how to answer")
        self.llm = LLMInference("m", system_prompt=self.rules)

    def forward(self, question: str) -> str:
        return self.llm(question)


class Plain:
    """A loss: right or wrong; it fails where the target says so."""

    low, high = 0.0, 1.0

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, records: Sequence[Any], targets: Sequence[Any]) -> Any:
        pairs = zip(records, targets, strict=True)
        return FeedbackBatch([self._one(record, target) for record, target in pairs])

    def _one(self, record: Any, target: Any) -> Feedback:
        self.asked += 1
        if target == "broken":
            return Feedback("", None, "verifier", error=ValueError("no such target"))
        if record.error is not None:
            return Feedback("", self.low, "verifier", record=record, target=target)
        right = record.output == target
        said = "right" if right else f"wrong, this is about {target}"
        score = self.high if right else self.low
        return Feedback(said, score, "verifier", record=record, target=target)


class Ladder:
    """An optimizer: one rewrite of one parameter for each minibatch."""

    def __init__(self, parameters: Any, *, engine: Any = None) -> None:
        self.names = [parameter.name for parameter in parameters]
        self.engine = engine
        self.rewriter = LLMInference("r")
        self.looked: list[str] = []

    async def search(self, search: Search) -> None:
        here, step = search.start, 0
        while not search.is_over():
            places = search.batch()
            step += 1
            before = await search.rollouts(here, places, record=True)
            wrong = [r for r in before if r.score is not None and r.score < 1]
            if not wrong:
                continue
            notes = await search.notes(here, wrong)
            name = search.names[0]
            said = " | ".join(note.content for note in notes[name])
            old = here.values[name]
            self.looked.append(said)
            new = await self.engine.run(self.rewriter, f"{step}\n{old}\n{said}")
            there = here.with_values({name: new})
            after = await search.rollouts(there, places)
            verdict = accept(_by_place(here, before), _by_place(there, after))
            changes = [Change(name, old, new, "a rule was missing")]
            if verdict.accepted:
                search.accepted(there, [here], changes, verdict)
                here = there
            else:
                search.rejected(there, [here], changes, verdict.reason)


def _by_place(candidate: Candidate, rollouts: Any) -> Any:
    return Scores.of(candidate, rollouts).by_place


def work(request: LLMRequest) -> str:
    """The task model: right if it was told the rule of the kind."""
    system = "".join(str(m.content) for m in request.messages if m.role == "system")
    kind = request.prompt.split()[1]
    return f"kind {kind}" if f"rule {kind}." in system else "no idea"


def rewrite(request: LLMRequest) -> str:
    """The rewriter: adds a rule for a kind it is shown, or one that is made up."""
    _, old, said = request.prompt.split("\n", 2)
    kinds = [part.split("kind ")[-1] for part in said.split("|")]
    chance = zlib.crc32(request.prompt.encode()) % 5
    kind = "99" if chance < 2 else kinds[chance % len(kinds)].strip()
    return f"{old} Use rule {kind}."


def examples(count: int, kinds: int = 4, first: int = 0) -> list[tuple[str, str]]:
    """Examples with their targets."""
    return [
        (f"kind {k % kinds} item {k}", f"kind {k % kinds}")
        for k in range(first, first + count)
    ]


class World:
    """Clients that count, an engine over them, and a module."""

    def __init__(
        self, task: Callable[[LLMRequest], Any] = work, rewriter: Any = rewrite
    ) -> None:
        self.task = FunctionClient(task)
        self.rewriter = FunctionClient(rewriter)
        self.module = Worker()
        self.events: list[Any] = []

    @property
    def asked(self) -> int:
        """How many requests reached a client."""
        return len(self.task.requests) + len(self.rewriter.requests)

    def run(self, body: Callable[[Engine], Coroutine[Any, Any, Any]], **kw: Any) -> Any:
        """Run `body(engine)` on a virtual clock."""

        async def main() -> Any:
            clients = {"m": self.task, "r": self.rewriter}
            async with Engine(clients, progress=False, **kw) as engine:
                return await body(engine)

        return virtually(main)


def ladder(module: Any, engine: Any = None) -> Ladder:
    """Return the optimizer for a module."""
    return Ladder(module.parameters(), engine=engine)
