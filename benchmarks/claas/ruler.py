"""`Ruler`: what an adapter is like, on prompts that it was not trained on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from benchmarks.claas.tasks import Task, asked, lesson_of
from claas.base import Base, Sampled
from claas.checks import parrots, verifier_of
from claas.gate import is_right
from claas.hints import Hints
from claas.likelihoods import divergences, likelihoods
from claas.prompts import CAPABILITIES, UNRELATED

_NOTHING = Sampled((), (), "")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an adapter is like.

    Args:
        greedy: Held-out prompts whose likeliest answer follows the feedback.
        sampled: Share of their sampled answers (temperature 0.7) that do.
        margin: How much likelier the hinted base's greedy answers to them are than the
            plain base's, nats a token.
        kl: From the base, on its own answers to unrelated prompts, nats a token.
        capability: Small questions that are answered right.
        example: An answer to the first held-out prompt.
    """

    greedy: int
    sampled: float
    margin: float
    kl: float
    capability: int
    example: str


class Ruler:
    """Reads adapters on the held-out prompts of a task.

    What the base says is asked once.

    Args:
        base: The model.
        task: The task.
        samples: Sampled answers to each held-out prompt.
    """

    def __init__(self, base: Base, task: Task, samples: int = 2) -> None:
        self._base = base
        self._task = task
        self._samples = samples
        self._hints = Hints.of(base.name)
        self._lesson = lesson_of(task, 0, (), _NOTHING)
        verifier = verifier_of(self._lesson)
        assert verifier is not None
        self._verifier = verifier
        self._prompts = [base.prompt(said) for said in asked(task.held_out)]
        self._unrelated = [base.prompt(said) for said in asked(UNRELATED)]

    @cached_property
    def hinted(self) -> list[Sampled]:
        """The hinted base's greedy answers to the held-out prompts."""
        return self.say(self.read(self._task.held_out), None, 0.0)

    @cached_property
    def plain(self) -> list[Sampled]:
        """The base's own greedy answers to them."""
        return self.say(self._prompts, None, 0.0)

    @cached_property
    def before(self) -> Reading:
        """The base."""
        return self.look(None)

    @property
    def of(self) -> int:
        """How many prompts are held out."""
        return len(self._prompts)

    def read(self, prompts: tuple[str, ...]) -> list[tuple[int, ...]]:
        """Return prompts with the hint in them, as tokens.

        Args:
            prompts: What the user says.
        """
        hint = self._hints.hinted
        return [self._base.prompt(hint(self._lesson, said)) for said in asked(prompts)]

    def say(
        self, prompts: list[tuple[int, ...]], name: str | None, temperature: float
    ) -> list[Sampled]:
        """Answer prompts.

        Args:
            prompts: Tokens.
            name: The adapter, None for the base.
            temperature: 0 takes the likeliest token each time.
        """
        most = self._task.tokens
        return self._base.sample(
            prompts, name, most=most, temperature=temperature, seed=7
        )

    def follows(self, said: list[Sampled]) -> list[bool]:
        """Say of answers whether they follow the feedback, and do not repeat it.

        Args:
            said: The answers.
        """
        follows, lesson = self._verifier.follows, self._lesson
        return [follows(a.text) and not parrots(lesson, a.text) for a in said]

    def look(self, folder: Path | None) -> Reading:
        """Read an adapter.

        Args:
            folder: PEFT's files, None for the base.
        """
        many = [ids for ids in self._prompts for _ in range(self._samples)]
        with self._base.adapter(folder) as name:
            greedy = self.say(self._prompts, name, 0.0)
            sampled = self.follows(self.say(many, name, 0.7))
            return Reading(
                greedy=sum(self.follows(greedy)),
                sampled=fmean(sampled),
                margin=self._margin(name),
                kl=self._drift(name),
                capability=self._capability(name),
                example=greedy[0].text,
            )

    def _margin(self, name: str | None) -> float:
        sides = (self.hinted, self.plain)
        answers = [[answer.token_ids for answer in side] for side in sides]
        good, plain = (
            fmean(likelihoods(self._base, self._prompts, some, name))
            for some in answers
        )
        return good - plain

    @cached_property
    def _said(self) -> list[tuple[int, ...]]:
        """What the base says of unrelated things."""
        said = self._base.sample(self._unrelated, None, most=24, seed=0)
        return [answer.token_ids for answer in said]

    def _drift(self, name: str | None) -> float:
        return fmean(divergences(self._base, self._unrelated, self._said, name))

    def _capability(self, name: str | None) -> int:
        prompts = [
            self._base.prompt(some[0]) for some in [asked([q]) for q, _ in CAPABILITIES]
        ]
        said = self._base.sample(prompts, name, most=24, temperature=0.0)
        pairs = zip(CAPABILITIES, said, strict=True)
        return sum(is_right(pattern, answer.text) for (_, pattern), answer in pairs)
