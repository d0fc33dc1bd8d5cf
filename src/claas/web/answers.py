"""`Answers`: what passes through to a client, and what is kept of it.

The inference server is asked for the sampled tokens and their log probabilities,
whether the client asked or not. This reads them out of what comes, and takes out what
the client did not ask for. Everything else passes as it came.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_NO_SETTING = (
    *("model", "messages", "prompt", "tools", "stream", "stream_options", "user"),
    *("metadata", "store", "logprobs", "top_logprobs", "return_token_ids", "n"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked for.

    Args:
        body: The request, as it came.
        is_chat: Whether it is a conversation.
    """

    body: Mapping[str, Any]
    is_chat: bool

    @property
    def streams(self) -> bool:
        """Whether tokens are sent as they come."""
        return bool(self.body.get("stream"))

    @property
    def wants_tokens(self) -> bool:
        """Whether the tokens are for the client, too."""
        return bool(self.body.get("return_token_ids"))

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log probabilities are for the client, too."""
        given = self.body.get("logprobs")
        return bool(given) if self.is_chat else given is not None

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings that say how it is sampled."""
        return {k: v for k, v in self.body.items() if k not in _NO_SETTING}

    def messages(self, index: int) -> tuple[Mapping[str, Any], ...]:
        """Return the conversation before an answer.

        Args:
            index: The number of the answer.
        """
        if self.is_chat:
            return tuple(listed(self.body.get("messages")))
        prompt = self.body.get("prompt")
        is_many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        if is_many and prompt:
            asked = self.body.get("n")
            count = asked if isinstance(asked, int) and asked > 0 else 1
            prompt = prompt[min(index // count, len(prompt) - 1)]
        return ({"role": "prompt", "content": prompt},)

    def upstream(self, model: str) -> dict[str, Any]:
        """Return what the inference server is asked.

        Args:
            model: What it calls the model.
        """
        more: dict[str, Any] = {"model": model, "return_token_ids": True}
        if not self.wants_logprobs:
            more["logprobs"] = True if self.is_chat else 0
        return {**self.body, **more}


@dataclass(slots=True)
class Answer:
    """What came of one answer.

    Args:
        text: Its text.
        prompt_ids: The tokens before it.
        token_ids: Its tokens.
        logprobs: Their log probabilities.
        calls: The tools that it calls, by number.
    """

    text: str = ""
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """Its text, with the tools that it calls."""
        if not self.calls:
            return self.text
        return self.text + json.dumps(list(self.calls.values()), ensure_ascii=False)


class Answers:
    """The answers to a request.

    Args:
        asked: What was asked.
        name: The id that they get.
        model: What the client calls the model.

    Attributes:
        by_index: The answers, by number.
    """

    def __init__(self, asked: Asked, name: str, model: str) -> None:
        self.by_index: dict[int, Answer] = {}
        self._asked, self._name, self._model = asked, name, model
        self._prompt: list[int] = []

    def take(self, body: dict[str, Any]) -> bool:
        """Keep what a response, or a chunk of one, tells; take out what is not asked.

        Args:
            body: The response or the chunk; it is changed.

        Returns:
            Whether anything is left to tell the client.
        """
        body["id"], body["model"] = self._name, self._model
        self._prompt = body.get("prompt_token_ids") or self._prompt
        if not self._asked.wants_tokens:
            body.pop("prompt_token_ids", None)
        choices = [c for c in body.get("choices") or () if isinstance(c, dict)]
        for choice in choices:
            self._keep(choice)
            self._strip(choice)
        is_told = self._asked.wants_tokens or self._asked.wants_logprobs
        return is_told or not choices or body.get("usage") or any(map(_says, choices))

    def items(self) -> Iterator[tuple[int, Answer]]:
        """Give the answers whose tokens are known."""
        for index, answer in sorted(self.by_index.items()):
            answer.prompt_ids = answer.prompt_ids or self._prompt
            if answer.token_ids and answer.prompt_ids:
                if len(answer.logprobs) != len(answer.token_ids):
                    answer.logprobs = []
                yield index, answer

    def _keep(self, choice: dict[str, Any]) -> None:
        """Keep what a choice tells."""
        answer = self.by_index.setdefault(int(choice.get("index") or 0), Answer())
        answer.prompt_ids = choice.get("prompt_token_ids") or answer.prompt_ids
        answer.token_ids += choice.get("token_ids") or ()
        answer.logprobs += _logprobs(choice.get("logprobs"))
        said = choice.get("message") or choice.get("delta") or {}
        answer.text += choice.get("text") or said.get("content") or ""
        for place, call in enumerate(said.get("tool_calls") or ()):
            number = call.get("index", place)
            known = answer.calls.setdefault(number, {"name": "", "arguments": ""})
            for key, value in (call.get("function") or {}).items():
                if key in known:
                    known[key] += value or ""

    def _strip(self, choice: dict[str, Any]) -> None:
        """Take out of a choice what the client did not ask for."""
        if not self._asked.wants_tokens:
            choice.pop("token_ids", None)
            choice.pop("prompt_token_ids", None)
        if not self._asked.wants_logprobs and "logprobs" in choice:
            choice["logprobs"] = None


def listed(value: Any) -> list[Any]:
    """Return a list that a client sent; an empty one for anything else.

    Args:
        value: What he sent.
    """
    return value if isinstance(value, list) else []


def _logprobs(told: Any) -> list[float]:
    """Return the log probabilities in OpenAI's form of a chat, or of a completion."""
    if not isinstance(told, dict):
        return []
    if "token_logprobs" in told:
        return [v for v in told["token_logprobs"] or () if v is not None]
    return [row["logprob"] for row in told.get("content") or ()]


def _says(choice: dict[str, Any]) -> bool:
    """Whether a choice tells the client anything."""
    if choice.get("finish_reason") or choice.get("text") or "message" in choice:
        return True
    return any((choice.get("delta") or {}).values())
