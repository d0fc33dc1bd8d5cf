"""`Lookup`: what comes next, guessed from what came after the same tokens before.

Prompt lookup: the newest tokens are looked for in what stands before them, in prompt
and answer; what followed there is the draft. It costs a search through bytes and no
model. Where an answer copies (a quotation, code that is corrected, JSON of a form that
was shown) much of it comes true; elsewhere little is found.

How long a draft may be is learned from what became of the last ones: all of it true
doubles it, else it is as much as came true and one more. So what is wrong costs few
rows, and what is right soon is long.
"""

from array import array
from collections.abc import Sequence

SIZES = (4, 3, 2)
"""How many tokens must be the same; more are tried first."""


class Lookup:
    """The tokens of one sequence, and how much of its drafts came true.

    Attributes:
        trust: How many tokens the next draft may have.
    """

    def __init__(self) -> None:
        self.trust = 1
        self._said = bytearray()

    @property
    def read(self) -> int:
        """How many tokens it knows."""
        return len(self._said) // _BYTES

    def read_on(self, tokens: Sequence[int]) -> None:
        """Take the next tokens.

        Args:
            tokens: Those that follow what it knows.
        """
        self._said += array("i", tokens).tobytes()

    def draft(self, most: int) -> list[int]:
        """Return tokens that may follow; none if the newest ones are new.

        What followed runs into the newest tokens at times: then the draft goes on with
        itself, for what repeats does so again.

        Args:
            most: How many tokens at most.
        """
        most, end = min(most, self.trust), self.read
        for size in SIZES if most > 0 else ():
            place = self._before(size)
            if place >= 0:
                after, period = place + size, end - place - size
                part = self._said[after * _BYTES : (after + most) * _BYTES]
                said = array("i", bytes(part))
                return [said[k % period] for k in range(most)]
        return []

    def learn(self, proposed: int, accepted: int) -> None:
        """Take how much of a draft came true.

        Args:
            proposed: How many tokens it had.
            accepted: How many of them were drawn.
        """
        if accepted < proposed:
            self.trust = accepted + 1
        elif proposed >= self.trust:
            self.trust *= 2

    def _before(self, size: int) -> int:
        """Return where the newest tokens stood last before, -1 if nowhere."""
        said, end = self._said, self.read
        if end <= size:
            return -1
        newest = bytes(said[-size * _BYTES :])
        place = said.rfind(newest, 0, len(said) - _BYTES)
        while place % _BYTES and place > 0:  # in the middle of a token
            place = said.rfind(newest, 0, place + len(newest) - 1)
        return place // _BYTES


_BYTES = array("i").itemsize
