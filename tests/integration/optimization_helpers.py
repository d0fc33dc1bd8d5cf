"""What the tests of optimizers share: a small module, notes, rewriters, a search."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.errors import BudgetExceededError
from inf_engine.optimization.acceptance import Verdict
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.notes import Evidence, Note
from inf_engine.optimization.search import Candidate, Change, Rollout
from inf_engine.record import Segment
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest


class Desk(InferenceModule):
    """Two prompts, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.extract = LLMInference("m", Parameter("List the facts.", "finds facts"))
        self.answer = LLMInference("m", Parameter("Be brief. Be kind.", "answers"))

    def forward(self, text: str) -> str:
        return self.answer(self.extract(text))


EXTRACT, ANSWER = "extract.system_prompt", "answer.system_prompt"


def prompts(module: InferenceModule) -> dict[str, Parameter]:
    """The parameters that can be trained, by name."""
    named = module.named_parameters()
    return {name: held for name, held in named if held.requires_grad}


def note(
    feedback: str = "too long", score: float | None = 0.0, example: int = 0, **of: Any
) -> Note:
    """A note with the evidence of one call."""
    call = Evidence(
        example,
        of.get("node", "answer#1"),
        "system",
        system=(Segment(of.get("system", "Be brief. Be kind."), ANSWER),),
        prompt=(Segment(of.get("prompt", f"question {example}")),),
        output=of.get("output", f"output {example}"),
        feedback=feedback,
        score=score,
        final=of.get("output", f"output {example}"),
        target=of.get("target", f"target {example}"),
    )
    return Note(of.get("content", feedback), score, evidence=(call,))


def edits(*changes: tuple[str, str]) -> dict[str, Any]:
    """An answer with edits: what is found, and what comes in its place."""
    return {
        "edits": [
            {"find": find, "replace": new, "reason": f"reason {number}"}
            for number, (find, new) in enumerate(changes)
        ]
    }


def editor(*changes: tuple[str, str], latency: float = 1.0) -> FunctionClient:
    """A rewriter that always proposes the same edits."""
    return FunctionClient(lambda _: edits(*changes), latency)


def with_engine(body: Callable[[Any], Any], **clients: Any) -> Any:
    """Run `body(engine)` on a virtual clock, with a client for each alias."""

    async def main() -> Any:
        async with Engine(clients, progress=False, retries=0) as engine:
            return await body(engine)

    return virtually(main)


def as_json(value: Any) -> Any:
    """What is left of a value that went through JSON."""
    return json.loads(json.dumps(value))


def rewriter_of(answer: Callable[[LLMRequest], Any]) -> FunctionClient:
    """A rewriter that answers with what a function gives."""
    return FunctionClient(answer, 1.0)


class FakeSearch:
    """A search whose scores are a function of the candidate and the example.

    Args:
        engine: Runs the rewriter.
        start: The values to start from.
        score: The score of a candidate's values on an example of a split.
        rollouts: The most rollouts; each pair of candidate and example is paid once.
        val_size: How many examples are held out.
        scale: What raw scores of the loss are multiples of.
    """

    def __init__(
        self,
        engine: Any,
        start: Mapping[str, str],
        score: Callable[[Mapping[str, Any], str, int], float | None],
        *,
        rollouts: int = 100,
        val_size: int = 4,
        scale: float = 1.0,
    ) -> None:
        self.engine = engine
        self.start = Candidate(dict(start))
        self.names: Sequence[str] = tuple(start)
        self.train_size = 8
        self.val_size = val_size
        self.rng = random.Random(0)
        self.stopped = False
        self.taken: list[tuple[Candidate, tuple[Change, ...], Verdict]] = []
        self.refused: list[tuple[Candidate, tuple[Change, ...], str]] = []
        self.asked: list[tuple[str, str, tuple[int, ...], bool]] = []
        self._score = score
        self._scale = scale
        self._left = rollouts
        self._known: set[tuple[str, str, int]] = set()
        self._place = 0

    def batch(self) -> Sequence[int]:
        self._place += 4
        return [(self._place + k) % self.train_size for k in range(4)]

    async def rollouts(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Any = "train",
        record: bool = False,
    ) -> list[Rollout]:
        self.asked.append((candidate.digest, split, tuple(places), record))
        keys = [(candidate.digest, split, place) for place in places]
        new = [key for key in keys if key not in self._known]
        if len(new) > self._left:
            raise BudgetExceededError("no rollouts are left.")
        self._left -= len(new)
        self._known.update(new)
        return [self._rollout(candidate, split, place) for place in places]

    def _rollout(self, candidate: Candidate, split: str, place: int) -> Rollout:
        score = self._score(candidate.values, split, place)
        raw = None if score is None else score * self._scale
        return Rollout(place, score, Feedback(f"feedback {place}", raw))

    async def notes(
        self, candidate: Candidate, rollouts: Sequence[Rollout]
    ) -> dict[str, list[Note]]:
        return {
            name: [
                note(r.feedback.content, r.score, place, system=str(text))
                for place, r in enumerate(rollouts)
            ]
            for name, text in candidate.values.items()
        }

    def sources(self, split: Any) -> Sequence[str]:
        size = self.val_size if split == "val" else self.train_size
        return [f"{split} {place}" for place in range(size)]

    def accepted(
        self, candidate: Any, parents: Any, changes: Any, verdict: Any
    ) -> None:
        self.taken.append((candidate, tuple(changes), verdict))

    def rejected(self, candidate: Any, parents: Any, changes: Any, reason: str) -> None:
        self.refused.append((candidate, tuple(changes), reason))

    def is_over(self) -> bool:
        return self.stopped or self._left <= 0
