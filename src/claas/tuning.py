"""Tuning: how is trained, taught and judged; what no number of which may be.

One set for everybody: the learner, the teachability check and the gate take these
records, and the settings read the same ones from a file. Nothing heavy is loaded.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from claas.prompts import ANCHORS, CAPABILITIES, UNRELATED

STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
"""A name that is not known is refused, and no value stands in the error."""

Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, StringConstraints(min_length=1)]
Prompts = Annotated[tuple[Text, ...], Field(min_length=1)]
Kind = Literal["base", "pinned", "ema", "region"]
"""Which weights of the base model teach, see `SelfTeaching`."""


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """How a candidate is trained.

    Args:
        lr: The learning rate of AdamW.
        steps: The most inner steps of an update.
        batch: Answers in a step.
        tokens: The most tokens of a sampled answer, and of a recorded one.
        passes: Steps on the same answers before new ones are sampled.
        alpha: Between the teacher (0) and the student (1), see `compute_sdpo_loss`;
            0.5 is Jensen-Shannon's.
        top_k: How many tokens of the teacher's to compare at each place.
        is_clip: The most that the ratio to the sampling policy counts.
        clip: The largest norm of a gradient.
        kl_reg: The weight of the penalty to the base on the answers themselves.
        anchor: The weight of the KL to the base on the anchor's prompts at first, 0
            for no anchor.
        drift: The KL that the anchor's weight holds, nats a token.
        anchor_prompts: What the anchor asks the base.
        anchor_rows: How many of its answers a step looks at.
        decay: AdamW's weight decay.
        least_tokens: Training stops where sampled answers are shorter on average.
        least_entropy: Training stops where the entropy falls below this share of the
            first step's.
        seed: Of all chance.
    """

    lr: PositiveFloat = 5e-4
    steps: PositiveInt = 20
    batch: PositiveInt = 4
    tokens: PositiveInt = 64
    passes: PositiveInt = 1
    alpha: Share = 0.5
    top_k: PositiveInt = 100
    is_clip: PositiveFloat = 2.0
    clip: PositiveFloat = 1.0
    kl_reg: NonNegativeFloat = 0.0
    anchor: NonNegativeFloat = 0.3
    drift: PositiveFloat = 0.05
    anchor_prompts: Prompts = ANCHORS
    anchor_rows: PositiveInt = 2
    decay: NonNegativeFloat = 0.0
    least_tokens: NonNegativeFloat = 1.5
    least_entropy: NonNegativeFloat = 0.02
    seed: NonNegativeInt = 0


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class SelfTeaching:
    """With which weights the base model teaches.

    Args:
        kind: ``base``: without an adapter. ``pinned``: with the version that serves
            when the update begins, so another one only after a promotion. ``ema``: with
            the moving average of the student's weights, over all steps of all versions
            that led here. ``region``: with the student's own, held near the base.
        ema_decay: Of ``ema``: how much of the average a step leaves as it was.
        trust: Of ``region``: how much of its log probabilities is the student's, the
            rest is the base's.
    """

    kind: Kind = "base"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    trust: Share = 0.05


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class TeachSettings:
    """How it is looked for whether the model can follow a feedback in context.

    Args:
        samples: Answers with and without the hint, for each lesson.
        tokens: The most tokens of an answer.
        temperature: Of these answers.
        comply: The share of hinted answers that must follow.
        known: The share of answers without the hint from which on there is nothing
            left to teach.
        margin: Where only log probabilities are left: the gain that counts, nats a
            token.
        seed: Of all chance.
    """

    samples: PositiveInt = 4
    tokens: PositiveInt = 64
    temperature: PositiveFloat = 0.7
    comply: Share = 0.5
    known: Share = 0.95
    margin: NonNegativeFloat = 0.05
    seed: NonNegativeInt = 0


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class Capability:
    """A small question of the gate, and how a right answer is known.

    Args:
        prompt: The question.
        answers: Words of which a right answer has one, as they are; case does not
            matter.
        pattern: A regular expression that a right answer has, in place of `answers`.
    """

    prompt: Text
    answers: tuple[Text, ...] = ()
    pattern: str = ""

    @field_validator("pattern", mode="after")
    @classmethod
    def _compiled(cls, pattern: str) -> str:
        """Refuse what is no regular expression."""
        try:
            re.compile(pattern)
        except re.error as exc:
            raise ValueError(f"it is no regular expression: {exc}") from exc
        return pattern

    @model_validator(mode="after")
    def _is_known(self) -> "Capability":
        """Refuse a question whose answer cannot be known."""
        if bool(self.answers) == bool(self.pattern):
            raise ValueError("a question needs 'answers' or a 'pattern', not both")
        return self

    @property
    def required(self) -> str:
        """The regular expression that a right answer has."""
        some = "|".join(re.escape(answer) for answer in self.answers)
        return self.pattern or rf"(?<!\w)(?:{some})(?!\w)"


QUESTIONS = tuple(Capability(prompt=p, pattern=answer) for p, answer in CAPABILITIES)
"""The built-in small questions."""


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class RatingLimits:
    """When a version that serves is taken back for its ratings.

    Args:
        least: How many ratings it and the version before must have; 0 to take none
            back.
        confidence: How sure it must be that they are worse: the chance that a version
            which is as good as the one before is ever taken back is the rest, at most.
    """

    least: NonNegativeInt = 20
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.99


@dataclass(config=STRICT, frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What a candidate must be like to be promoted.

    Args:
        confidence: Of the intervals.
        gain: How much compliance with the feedback must surely rise; for feedback
            without a verifier, nats a token.
        loss: How much compliance with earlier feedback may fall; for feedback without
            a verifier, nats a token.
        drift: The most KL to the base on unrelated prompts, nats a token.
        ability: How large a share of the small questions may be lost.
        entropy: How much the entropy of answers may change, as a share.
        length: How much the length of answers may change, as a share.
        repetition: The largest share of repeated runs of three tokens.
        samples: Answers to each probe.
        most: The most prompts on which new feedback is judged, and as many for earlier
            feedback: first each feedback's own, then the held-out ones of its check.
        tokens: The most tokens of an answer.
        temperature: Of answers to probes; to unrelated prompts it is 1.
        unrelated: Prompts that no feedback is about.
        capabilities: The small questions, none to ask none.
        seed: Of all chance.
    """

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.9
    gain: NonNegativeFloat = 0.0
    loss: NonNegativeFloat = 0.1
    drift: PositiveFloat = 0.1
    ability: NonNegativeFloat = 0.15
    entropy: PositiveFloat = 0.5
    length: PositiveFloat = 0.5
    repetition: Annotated[float, Field(gt=0, le=1)] = 0.5
    samples: PositiveInt = 4
    most: PositiveInt = 128
    tokens: PositiveInt = 64
    temperature: PositiveFloat = 0.7
    unrelated: Prompts = UNRELATED
    capabilities: tuple[Capability, ...] = QUESTIONS
    seed: NonNegativeInt = 0
