"""Chance that is a function of content: the same words give the same draw, anywhere.

Nothing here keeps state, so neither the order nor the concurrency of requests can
change what is drawn.
"""

import random
from hashlib import blake2b


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that depends on the parts alone.

    Args:
        *parts: Numbers and texts; what they print as is what counts.
    """
    return int.from_bytes(_digest(parts)[:7], "big") / 256**7


def dice(*parts: object) -> random.Random:
    """Return a generator of random numbers that depends on the parts alone.

    Args:
        *parts: Numbers and texts; what they print as is what counts.
    """
    return random.Random(int.from_bytes(_digest(parts), "big"))


def _digest(parts: tuple[object, ...]) -> bytes:
    """The hash of the parts."""
    said = "\x1f".join(map(str, parts))
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
