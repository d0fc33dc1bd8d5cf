"""`World`: hidden rules, examples, a metric, and the server of the two models."""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmarks.simworld.chance import chance, dice
from benchmarks.simworld.examples import Example, drawn, hint
from benchmarks.simworld.families import FAMILIES, ROLES
from benchmarks.simworld.forms import messages_of
from benchmarks.simworld.reflector import Reflector, filler
from benchmarks.simworld.rules import MARK, RuleBook
from benchmarks.simworld.task import TaskModel
from inf_engine.errors import UsageError, known_names
from inf_engine.testing import LoopbackServer

RIGHT = "Right."
_CHARACTERS = 4


@dataclass(slots=True)
class Traffic:
    """What one role was asked and said.

    Args:
        calls: Requests that were answered, equal ones each time.
        input_tokens: Tokens of the requests' messages, four characters each.
        output_tokens: Tokens of the answers.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Service:
    """A world being served.

    Args:
        url: The base URL of an OpenAI-compatible endpoint, ``/v1`` included.
        counts: The traffic of the roles "task" and "reflector".
    """

    url: str
    counts: dict[str, Traffic] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The tokens of all traffic."""
        return sum(traffic.tokens for traffic in self.counts.values())


class World:
    """One simulated world: what a family hides, for a seed.

    Args:
        family: "one", "pipeline", "chain", "noisy", "contradictory" or "long".
        seed: The same seed gives the same world.

    Attributes:
        book: The hidden rules.
        train: Examples to learn from.
        val: Examples to choose by.
        test: The held-out examples, with right labels.

    Raises:
        UsageError: There is no such family.

    Example:
        >>> world = World("one", seed=3)
        >>> len(world.train), len(world.val), len(world.test)
        (60, 60, 200)
        >>> world.true_score(world.oracle_prompts()) > 0.97
        True
    """

    def __init__(self, family: str, seed: int) -> None:
        if family not in FAMILIES:
            raise UsageError(
                f"no family {family!r} of worlds; {known_names(family, FAMILIES)}"
            )
        self.family = FAMILIES[family]
        self.seed = seed
        stages = 1 if self.family.shared else len(self.family.stages)
        self.book = RuleBook.drawn(seed, self.family.rules, stages)
        sets = drawn(seed, self.family, self.book)
        self.train, self.val, self.test = (sets[n] for n in ("train", "val", "test"))
        examples = [*self.train, *self.val, *self.test]
        self._task = TaskModel(seed, self.family, self.book, examples)
        self._reflector = Reflector(seed, self.family, self.book)

    def __repr__(self) -> str:
        return f"World({self.family.name!r}, seed={self.seed})"

    def metric(self, example: Example, output: object) -> tuple[float, str]:
        """Return the score of an answer and what somebody says about it.

        Args:
            example: The order.
            output: The answer; its marks count, not how it is written.

        Returns:
            1.0 or 0.0, and a sentence; of several mistakes it names one.
        """
        given = sorted({mark.upper() for mark in MARK.findall(str(output))})
        expected = sorted(set(MARK.findall(example.expected)))
        right = given == expected
        drawing = chance(self.seed, "flip", example.id, " ".join(given))
        if drawing < self.family.flips:
            return float(not right), "Marked as wrong." if right else RIGHT
        return float(right), RIGHT if right else self._said(example, given, expected)

    def _said(self, example: Example, given: list[str], expected: list[str]) -> str:
        """What somebody says about a wrong answer."""
        missing = [mark for mark in expected if mark not in given]
        if not missing:
            return "There is a mark too much in this answer."
        mark = dice(self.seed, "said", example.id).choice(missing)
        return hint(self.book.rules[self.book.owner(mark) or 0], mark)

    def true_score(self, prompts: Mapping[str, str]) -> float:
        """Return the expected share of right answers on the held-out examples.

        Args:
            prompts: The prompt of each stage by its name, as in `start_prompts`.

        Raises:
            UsageError: A stage has no prompt, or there is no such stage.
        """
        return self.score(prompts, self.test)

    def score(self, prompts: Mapping[str, str], examples: tuple[Example, ...]) -> float:
        """Return the expected share of answers that are truly right.

        Args:
            prompts: The prompt of each stage by its name.
            examples: The orders; their labels do not matter.
        """
        if sorted(prompts) != sorted(self.family.stages):
            raise UsageError(
                f"{self!r} has the prompts {', '.join(self.family.stages)}; give a "
                f"text for each, and no other. Given: {', '.join(prompts) or 'none'}."
            )
        texts = [prompts[stage] for stage in self.family.stages]
        rights = [self._task.right(texts, example) for example in examples]
        return sum(rights) / len(rights)

    def start_prompts(self) -> dict[str, str]:
        """Return the prompts to start from; they state some of the rules."""
        return self._prompts(self._start)

    def oracle_prompts(self) -> dict[str, str]:
        """Return prompts that state every rule where it helps, and nothing else."""
        return self._prompts(frozenset(range(len(self.book.rules))), filled=False)

    @cached_property
    def _start(self) -> frozenset[int]:
        """The rules that the start prompts state: as many as the score needs."""
        order = dice(self.seed, "start").sample(self.book.rules, len(self.book.rules))
        stated: frozenset[int] = frozenset()
        for rule in order:
            if self.score(self._prompts(stated), self.test) >= self.family.start:
                break
            stated |= {rule.id}
        return stated

    def _prompts(
        self, stated: frozenset[int], *, filled: bool = True
    ) -> dict[str, str]:
        """The prompts that state some rules."""
        prompts = {}
        for number, stage in enumerate(self.family.stages):
            lines = [ROLES[stage]]
            if filled:
                lines += [filler(n) for n in range(self.family.filler)]
            for rule in self.book.rules:
                if rule.id in stated and (self.family.shared or rule.stage == number):
                    lines.append(f"- {rule.sentence()}")
            prompts[stage] = "\n".join(lines)
        return prompts

    def reply(self, body: dict[str, Any]) -> str:
        """Return what the model of a request answers; the same to the same, always.

        Args:
            body: The body of a chat completion; its model is "task" or "reflector".

        Raises:
            UsageError: There is no such model.
        """
        role = str(body.get("model", "")).rsplit("/", 1)[-1]
        if role not in ("task", "reflector"):
            raise UsageError(f"no model {role!r} here; ask for 'task' or 'reflector'.")
        model = self._task if role == "task" else self._reflector
        return model.reply(body)

    @contextlib.contextmanager
    def serve(self) -> Generator[Service, None, None]:
        """Serve the two models on a port of 127.0.0.1, in a thread of its own.

        Yields:
            The URL and the counts; these can still be read afterwards.
        """
        counts = {"task": Traffic(), "reflector": Traffic()}

        def answered(body: dict[str, Any]) -> dict[str, Any]:
            text = self.reply(body)
            read = -(-sum(map(len, messages_of(body))) // _CHARACTERS)
            said = -(-len(text) // _CHARACTERS)
            traffic = counts[str(body["model"]).rsplit("/", 1)[-1]]
            traffic.calls += 1
            traffic.input_tokens += read
            traffic.output_tokens += said
            usage = {"input_tokens": read, "output_tokens": said}
            return {"text": text, "usage": usage}

        with LoopbackServer(answered, record=False) as server:
            yield Service(server.base_url, counts)
