"""`TextStream`: tokens into text, as they come.

Two things keep text back. A token may end within a character: what it decodes to ends
with U+FFFD until the next one comes. And a text that ends the answer may begin at the
end of what is there: it is not sent until it is known not to be one.

Tokens are decoded together with a few before them, since the text of a token depends on
what stands before it; what those few decode to is taken off again.
"""

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
_CONTEXT = 6  # tokens of the prompt that are decoded with the first ones
_MOST_HELD = 4  # tokens that a character may have


class TextStream:
    """Turns the tokens of one answer into text.

    Args:
        decode: Returns the text of tokens.
        prompt: The tokens before the answer.
        stops: Texts that end it.
        keeps_stop: Whether the stop is part of it.

    Attributes:
        stopped: The text that ended it, None until then.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        *,
        keeps_stop: bool = False,
    ) -> None:
        self._decode, self._stops, self._keeps = decode, tuple(stops), keeps_stop
        self._tokens = list(prompt[-_CONTEXT:])
        self._read = len(self._tokens)  # tokens whose text is known
        self._before = decode(self._tokens) if self._tokens else ""
        self._held = ""  # text that may be the beginning of a stop
        self.stopped: str | None = None

    def feed(self, token: int) -> str:
        """Take a token; return the text that can be sent.

        Args:
            token: The token.
        """
        self._tokens.append(token)
        return self._screened(self._text(is_last=False))

    def end(self) -> str:
        """Return the text that is left when no token follows."""
        if self.stopped is not None:
            return ""
        text = self._screened(self._text(is_last=True))
        if self.stopped is not None:
            return text
        rest, self._held = self._held, ""
        return text + rest

    def _text(self, is_last: bool) -> str:
        """Return the text of tokens that were not read until now, if it is whole."""
        if self._read == len(self._tokens):
            return ""
        text = self._decode(self._tokens)
        if text.startswith(self._before):
            new = text[len(self._before) :]
            broken = len(new) - len(new.rstrip(_BROKEN))
            is_whole = bool(new) and not 0 < broken < _MOST_HELD
        else:  # what came before reads differently now: a character is not whole yet
            new = self._decode(self._tokens[self._read :])
            is_whole = len(self._tokens) - self._read > _MOST_HELD
        if not is_whole and not is_last:
            return ""
        self._tokens = self._tokens[self._read :]
        self._read = len(self._tokens)
        self._before = self._decode(self._tokens)
        return new

    def _screened(self, new: str) -> str:
        """Return what of the text so far can be sent, up to a stop."""
        text = self._held + new
        found = [(text.find(s), -len(s), s) for s in self._stops if s in text]
        if found:
            place, _, self.stopped = min(found)
            self._held = ""
            return text[: place + len(self.stopped) * self._keeps]
        keep = max((_overlap(text, s) for s in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may begin a stop."""
    most = min(len(text), len(stop) - 1)
    sizes = range(most, 0, -1)
    return next((n for n in sizes if text.endswith(stop[:n])), 0)
