"""The keys of the journal and of the cache: 16 bytes each.

A key is a digest of a list of texts, each with its length before it, so that no two
lists run together into the same bytes. What is in the list decides what is repeated
after a change, and what is not:

- **journal**: the attribute path of the module in the program, the canonical request,
  the first model of its alias, the identity of the input, and how many equal calls
  came before in this input. No names of classes, files, cells, or addresses in memory.
  No arrival order either: of two equal calls it does not matter which is which.
- **cache**: the canonical request, the model, and the number of the sample.

By the birthday bound, 16 bytes make two of a billion keys meet with a chance of about
2e-21.
"""

import hashlib

from inf_engine.journal.codec import canonical_request
from inf_engine.types import LLMRequest

KEY_BYTES = 16

_CALL = b"inf-engine call1"  # 16 bytes at most; another number is another key
_CACHE = b"inf-engine hit1"
_EQUAL = b"inf-engine same1"


def call_key(
    path: str, request: LLMRequest | str, model: str, input_id: str, number: int
) -> bytes:
    """Return the key of a call in the journal: 16 bytes.

    Args:
        path: The attribute path of the module in the program.
        request: The request, or its text by `canonical_request`.
        model: The first model of the alias that it goes to.
        input_id: The identity of the input, see `identity_of`.
        number: How many equal calls came before in this input, see `CallNumbers`.

    Raises:
        JournalError: If the request holds what JSON does not know.
    """
    return _digest(_CALL, path, _text(request), model, input_id, str(int(number)))


def cache_key(request: LLMRequest | str, model: str, sample: int) -> bytes:
    """Return the key of a request in the cache: 16 bytes.

    Args:
        request: The request, or its text by `canonical_request`.
        model: The first model of the alias that it goes to.
        sample: Which of several answers to the same request, from 0.

    Raises:
        JournalError: If the request holds what JSON does not know.
    """
    return _digest(_CACHE, _text(request), model, str(int(sample)))


class CallNumbers:
    """The numbers of equal calls within one input; make one for each input."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}

    def take(self, path: str, request: LLMRequest | str, model: str) -> int:
        """Return how many equal calls there were before this one, and count it.

        Args:
            path: The attribute path of the module in the program.
            request: The request, or its text by `canonical_request`.
            model: The first model of the alias that it goes to.

        Raises:
            JournalError: If the request holds what JSON does not know.
        """
        call = _digest(_EQUAL, path, _text(request), model)
        number = self._next.get(call, 0)
        self._next[call] = number + 1
        return number


def _text(request: LLMRequest | str) -> str:
    return request if isinstance(request, str) else canonical_request(request)


def _digest(purpose: bytes, *texts: str) -> bytes:
    """Return the digest of texts, each with its length before it."""
    pieces = []
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        pieces += [len(data).to_bytes(8, "big"), data]
    joined = b"".join(pieces)
    return hashlib.blake2b(joined, digest_size=KEY_BYTES, person=purpose).digest()
