"""The families of worlds: what is hidden, and how well models and people do.

The figures are part of the measure: change none without measuring all again.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of world.

    Args:
        name: Its name.
        stages: The names of its prompts, in the order in which they are used.
        rules: How many hidden rules there are.
        start: The true score that the start prompts just reach.
        shared: Whether a rule must be stated in all stages, instead of in its own.
        flips: The share of scores that the metric flips.
        wrong_labels: The share of training and validation labels that are wrong.
        free_words: How many words a prompt may have before it dilutes; 0 for any.
        fading_words: After how many more words rules are followed 1/e as often.
        filler: How many irrelevant sentences the start prompt has.
        follow: How probably a stated rule is followed.
        slip: How probably an answer is wrong for no reason.
        guess: How probably a rule is followed that nothing tells of.
        notice: How probably the reflector notices a mark that a sentence tells of.
        infer: How probably it infers one from an example and its answer.
        picks: How probably it picks up 1, 2, 3 ... rules in a reply.
        forget: How probably it forgets a rule when it rewrites a prompt.
        hallucinate: How probably it adds a wrong rule to a reply.
        lapse: How probably a rule is left out of a prompt, for each further prompt
            that is written in the same reply.
        ramble: How probably it adds an irrelevant sentence with a rule.
    """

    name: str
    stages: tuple[str, ...] = ("desk",)
    rules: int = 10
    start: float = 0.33
    shared: bool = False
    flips: float = 0.0
    wrong_labels: float = 0.0
    free_words: int = 0
    fading_words: int = 1
    filler: int = 0
    follow: float = 0.997
    slip: float = 0.012
    guess: float = 0.03
    notice: float = 0.8
    infer: float = 0.2
    picks: tuple[float, ...] = (0.1, 0.3, 0.35, 0.25)
    forget: float = 0.03
    hallucinate: float = 0.12
    lapse: float = 0.1
    ramble: float = 0.0


STAGES = ("pack", "bill", "ship")
ROLES = {
    "desk": "You work at the order desk of a small shop.",
    "pack": "You pack the orders of a small shop.",
    "bill": "You bill the orders of a small shop.",
    "ship": "You ship the orders of a small shop.",
}
"""The sentence with which a prompt begins, by stage."""

FAMILIES = {
    family.name: family
    for family in (
        Family("one"),
        Family("pipeline", STAGES, rules=12),
        Family("chain", STAGES, rules=14, shared=True),
        Family("noisy", flips=0.17),
        Family("contradictory", wrong_labels=0.17),
        Family(
            "long",
            free_words=150,
            fading_words=3000,
            filler=5,
            ramble=0.6,
        ),
    )
}
"""Every family by its name."""
