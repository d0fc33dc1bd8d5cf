"""`Memory`: what was said in each lane, for sequences with penalties.

It belongs to the last stage of an epoch. The order in which logits change is vLLM's:
biases, repetition, frequency, presence; what a grammar forbids comes after.
"""

from collections.abc import Sequence

import torch

from butterfly.communication.penalties import Past, Penalties
from butterfly.errors import FrameError


class Memory:
    """What was said in each lane."""

    def __init__(self) -> None:
        self._lanes: dict[int, Said] = {}

    def told(self, lane: int, data: bytes, vocabulary: int) -> "Said":
        """Return what was said in a lane, with what is new.

        Args:
            lane: The lane.
            data: What is new of its sequence, as `Past.encode` wrote it.
            vocabulary: How many tokens there are.

        Raises:
            FrameError: If something was missed.
        """
        past = Past.decode(data)
        if past.heard < 0:
            self._lanes[lane] = Said(past.prompt, past.penalties, vocabulary)
        said = self._lanes.get(lane)
        if said is None or said.heard != max(0, past.heard):
            count = "nothing" if said is None else said.heard
            raise FrameError(
                f"lane {lane} has heard {count}, and not {past.heard} tokens: "
                "the nodes disagree about what was said."
            )
        said.hear(past.output)
        return said


class Said:
    """What was said in one lane.

    Args:
        prompt: The tokens of the prompt, if they matter.
        penalties: How what was said changes what is said next.
        vocabulary: How many tokens there are.

    Attributes:
        heard: How many tokens of the output it has heard.
    """

    def __init__(
        self, prompt: Sequence[int], penalties: Penalties, vocabulary: int
    ) -> None:
        self.heard = 0
        self._penalties = penalties
        self._counts = torch.zeros(vocabulary)
        self._seen = torch.zeros(vocabulary, dtype=torch.bool)
        self._seen[list(prompt)] = True
        self._biases = torch.zeros(vocabulary)
        for token, bias in penalties.biases:
            self._biases[token] = bias

    def hear(self, tokens: Sequence[int]) -> None:
        """Take tokens that were said.

        Args:
            tokens: They, in order.
        """
        for token in tokens:
            self._counts[token] += 1
            self._seen[token] = True
        self.heard += len(tokens)

    def weighed(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits as penalties and biases change them.

        Args:
            logits: `[vocabulary]`, float32; they stay as they are.
        """
        how = self._penalties
        found = logits + self._biases
        if how.repetition != 1.0:
            less = torch.where(
                found > 0, found / how.repetition, found * how.repetition
            )
            found = torch.where(self._seen, less, found)
        found -= how.frequency * self._counts
        found -= how.presence * (self._counts > 0)
        return found
