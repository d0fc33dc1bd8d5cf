"""`CallReader`: the text of an answer into what is said and what is called.

Models write calls as text. Two forms are read:

    <tool_call>{"name": …, "arguments": {…}}</tool_call>    anywhere, any number
    {"name": …, "parameters": {…}}                          the whole answer, or several
                                                            with `;` between them

The first one is that of Hermes and Qwen, the second that of Llama 3; both take either
word for the arguments. What is no JSON, or names no function of the request, stays
text. A call is told when it is whole; text is held back while it may become one.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

OPENS, CLOSES = "<tool_call>", "</tool_call>"
_PYTHON = "<|python_tag|>"  # what Llama 3 may begin calls with
_BETWEEN = re.compile(r"[\s;,]*")


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model wants to be called.

    Args:
        name: Its name.
        arguments: Its arguments, a JSON object.
        id: What the client calls it by when it tells what came of it.
    """

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


class CallReader:
    """Finds the calls in the text of one answer.

    Args:
        names: The functions that there are.
        is_single: Whether only the first call counts.
    """

    def __init__(self, names: Sequence[str], *, is_single: bool = False) -> None:
        self._names, self._is_single = frozenset(names), is_single
        self._held = self._space = ""
        self._is_begun = False  # text was told, or a call
        self._has_called = self._is_after = False  # a call; just now

    def feed(self, text: str, *, is_last: bool) -> tuple[str, tuple[Call, ...]]:
        """Take text; return what can be told of it, and the calls that are whole.

        Args:
            text: What the answer goes on with.
            is_last: Whether it ends so.
        """
        self._held += text
        if not self._is_begun and self._may_be_bare():
            if not is_last:
                return "", ()
            if found := self._bare(self._held):
                self._held = ""
                return "", self._counted(found)
        return self._tagged(is_last)

    def _may_be_bare(self) -> bool:
        """Say whether the answer may be nothing but calls without tags."""
        begin = self._held.lstrip()
        return begin.startswith(("{", _PYTHON)) or _PYTHON.startswith(begin)

    def _bare(self, text: str) -> list[Call]:
        """Return the calls that a text is made of; nothing if it is something else."""
        text = text.strip().removeprefix(_PYTHON)
        found, at = [], 0
        while at < len(text):
            try:
                body, at = json.JSONDecoder().raw_decode(text, at)
            except (ValueError, RecursionError):
                return []
            call = self._call(body)
            if call is None:
                return []
            found.append(call)
            separator = _BETWEEN.match(text, at)
            at = separator.end() if separator else at
        return found

    def _tagged(self, is_last: bool) -> tuple[str, tuple[Call, ...]]:
        """Take what is decided off the text that is held."""
        said, found = "", []
        while (place := self._held.find(OPENS)) >= 0:
            end = self._held.find(CLOSES, place)
            if end < 0 and not is_last:
                break
            stop = len(self._held) if end < 0 else end + len(CLOSES)
            inner = self._held[place + len(OPENS) : stop].removesuffix(CLOSES)
            call = self._parsed(inner)
            said += self._told(self._held[: stop if call is None else place])
            if call is not None:
                found.append(call)
                self._space, self._is_after = "", True
            self._held = self._held[stop:]
        else:
            place = len(self._held) - (0 if is_last else _begun(self._held))
            said += self._told(self._held[:place])
            self._held = self._held[place:]
        calls = self._counted(found)
        if is_last and not self._has_called:
            said += self._space
        self._is_begun = self._is_begun or bool(said or self._has_called)
        return said, calls

    def _told(self, text: str) -> str:
        """Return text without the white space beside calls."""
        if self._is_after:
            text = text.lstrip()
            self._is_after = not text
        text = self._space + text
        bare = text.rstrip()
        self._space = text[len(bare) :]
        return bare

    def _counted(self, calls: list[Call]) -> tuple[Call, ...]:
        """Return the calls that count."""
        told = calls[: 0 if self._has_called else 1] if self._is_single else calls
        self._has_called = self._has_called or bool(calls)
        return tuple(told)

    def _parsed(self, text: str) -> Call | None:
        try:
            return self._call(json.loads(text))
        except (ValueError, RecursionError):
            return None

    def _call(self, body: object) -> Call | None:
        """Return the call that an object is; None if it is none."""
        if not isinstance(body, dict) or body.get("name") not in self._names:
            return None
        given = body.get("arguments", body.get("parameters"))
        if not isinstance(given, dict):
            return None
        try:
            text = json.dumps(given, ensure_ascii=False, allow_nan=False)
            text.encode()
        except ValueError:  # no JSON, or no Unicode, once it is read
            return None
        return Call(body["name"], text)


def _begun(text: str) -> int:
    """Return how many characters at the end of a text may begin a tag."""
    sizes = range(min(len(text), len(OPENS) - 1), 0, -1)
    return next((n for n in sizes if text.endswith(OPENS[:n])), 0)
