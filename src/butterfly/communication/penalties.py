"""`Penalties` and `Past`: how what was said changes what is said next.

The last stage keeps what was said in a lane; a frame brings only what it has not heard
yet: everything with the first token that is drawn in an epoch, then one token a frame.

    past       28 bytes   the penalties, how much was heard, counts
               8 bytes for each bias, 4 for each token of the prompt and of the output
"""

import struct
from dataclasses import dataclass

import numpy as np

from butterfly.errors import FrameError

_HEAD = struct.Struct("<fffiIII")
_BIAS = np.dtype([("token", "<i4"), ("bias", "<f4")])


@dataclass(frozen=True, slots=True)
class Penalties:
    """How what was said, and wishes, change the logits of what is said next.

    In the order in which they are applied, which is vLLM's:

    Args:
        biases: What is added to the logits of tokens.
        repetition: What positive logits of tokens of prompt and output are divided by,
            and negative ones multiplied with; 1 for nothing.
        frequency: What is taken off for each time that a token is in the output.
        presence: What is taken off if a token is in the output.
    """

    biases: tuple[tuple[int, float], ...] = ()
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0


@dataclass(frozen=True, slots=True)
class Past:
    """What the last stage has not heard yet of a sequence with penalties.

    Args:
        penalties: Which; the biases are only there if nothing was heard.
        heard: How many tokens of the output it has heard, -1 for nothing at all.
        prompt: The tokens that the prompt has, if they matter and nothing was heard.
        output: The tokens of the output that it has not heard.
    """

    penalties: Penalties
    heard: int = -1
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, penalties: Penalties, heard: int, prompt: list[int], output: list[int]
    ) -> "Past":
        """Return what is new of a sequence.

        Args:
            penalties: Its penalties.
            heard: How many tokens of the output were heard, -1 for nothing at all.
            prompt: Its prompt.
            output: Its output.
        """
        if heard >= 0:
            p = penalties
            plain = Penalties((), p.repetition, p.frequency, p.presence)
            return cls(plain, heard, (), tuple(output[heard:]))
        matters = penalties.repetition != 1.0
        told = tuple(sorted(set(prompt))) if matters else ()
        return cls(penalties, heard, told, tuple(output))

    def encode(self) -> bytes:
        """Return it as bytes."""
        p = self.penalties
        counts = len(p.biases), len(self.prompt), len(self.output)
        return b"".join(
            [
                _HEAD.pack(p.repetition, p.frequency, p.presence, self.heard, *counts),
                np.array(list(p.biases), _BIAS).tobytes(),
                np.array([*self.prompt, *self.output], "<i4").tobytes(),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> "Past":
        """Return what `encode` wrote.

        Args:
            data: The bytes.

        Raises:
            FrameError: If it did not write them.
        """
        if len(data) < _HEAD.size:
            raise FrameError("the past of a segment is damaged: it is too short.")
        repetition, frequency, presence, heard, *counts = _HEAD.unpack_from(data)
        biases, prompt, output = counts
        middle = _HEAD.size + biases * _BIAS.itemsize
        if len(data) != middle + 4 * (prompt + output):
            raise FrameError("the past of a segment is damaged: its counts do not fit.")
        pairs = np.frombuffer(data[_HEAD.size : middle], _BIAS).tolist()
        tokens = np.frombuffer(data[middle:], "<i4").tolist()
        own = Penalties(tuple(pairs), repetition, frequency, presence)
        return cls(own, heard, tuple(tokens[:prompt]), tuple(tokens[prompt:]))
