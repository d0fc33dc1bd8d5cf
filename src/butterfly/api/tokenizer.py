"""`Tokenizer`: text and conversations into tokens, and back."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
from jinja2 import TemplateError

from butterfly.api.calls import OPENS
from butterfly.api.messages import plain_messages
from butterfly.api.refusals import Refusal
from butterfly.api.tools import Toolbox
from butterfly.engine.library import read_tokenizer
from butterfly.errors import ConfigurationError


class Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        folder: Where the checkpoint is.
        config: Its transformers configuration.

    Raises:
        ConfigurationError: If there is none, or a slow one.

    Attributes:
        vocabulary: How many tokens the model knows.
        ends: The tokens that end a text.
        native: The same for llguidance.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self._inner: Any = read_tokenizer(folder)
        self.vocabulary = int(config.vocab_size)
        self.ends = frozenset(_ends(folder, config, self._inner))
        self._special = frozenset(self._inner.all_special_ids)
        self._pieces: dict[int, bytes] = {}
        try:
            self.native = llguidance.hf.from_tokenizer(
                self._inner,
                n_vocab=max(self.vocabulary, len(self._inner)),
                eos_token=sorted(self.ends) or None,
            )
        except ValueError as exc:
            raise ConfigurationError(
                f"the tokenizer of {folder} cannot be used: {exc}"
            ) from exc

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text.

        Args:
            text: The text.
            special: Whether tokens that begin a text are put before it.

        Raises:
            Refusal: If it is no Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise Refusal(f"the text is no Unicode: {exc.reason}.") from exc
        found: list[int] = self._inner.encode(text, add_special_tokens=special)
        return found

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of tokens.

        Args:
            tokens: The tokens.
            skip_special: Whether special tokens are left out.
        """
        text: str = self._inner.decode(
            tokens,
            skip_special_tokens=skip_special,
            clean_up_tokenization_spaces=False,
        )
        return text

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        begins: bool = True,
        goes_on: bool = False,
        special: bool = False,
        more: Mapping[str, Any] | None = None,
        tools: Toolbox | None = None,
    ) -> list[int]:
        """Return the tokens of a conversation.

        Args:
            messages: The conversation.
            begins: Whether the assistant's turn is begun.
            goes_on: Whether the last message is gone on with.
            special: Whether tokens that begin a text are put before it.
            more: What the chat template is given besides.
            tools: The functions that may be called; a template that knows no tools
                gets them as text.

        Raises:
            Refusal: If there is no chat template, or it refuses.
        """
        if not self._inner.chat_template:
            raise Refusal(
                "the model has no chat template: use /v1/completions, or add a "
                "chat_template.jinja to its folder.",
                param="messages",
            )
        knows = self._knows_tools
        plain = plain_messages(messages, tools, knows_tools=knows)
        told = [dict(tool) for tool in tools.tools] if tools and knows else None
        given = {k: v for k, v in (more or {}).items() if k not in _OWN}
        try:
            text: str = self._inner.apply_chat_template(
                plain,
                tokenize=False,
                **{
                    "add_generation_prompt": begins and not goes_on,
                    "tools": told,
                    **given,
                },
                continue_final_message=goes_on,
            )
        except (TemplateError, ValueError, TypeError, KeyError) as exc:
            raise Refusal(
                f"the chat template refuses these messages: {exc}", param="messages"
            ) from exc
        return self.encode(text, special=special)

    @property
    def is_tagged(self) -> bool:
        """Whether the model writes calls between tags, and not as bare JSON."""
        return not self._knows_tools or OPENS in str(self._inner.chat_template)

    @property
    def _knows_tools(self) -> bool:
        """Whether the chat template does something with tools."""
        return "tools" in str(self._inner.chat_template)

    def piece(self, token: int) -> bytes:
        """Return the bytes that a token stands for, those of its name if special.

        Args:
            token: The token.
        """
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._piece(token)
        return found

    def _piece(self, token: int) -> bytes:
        if token in self._special or not 0 <= token < len(self._inner):
            return str(self._inner.convert_ids_to_tokens(token) or "").encode()
        return bytes(self.native.decode_bytes([token]))

    def check(self, tokens: Sequence[int], param: str) -> None:
        """Refuse tokens that the model does not know.

        Args:
            tokens: The tokens.
            param: Where they were given.

        Raises:
            Refusal: If there is one.
        """
        strange = [t for t in tokens if not 0 <= t < self.vocabulary]
        if strange:
            raise Refusal(
                f"{strange[0]} is no token of the model: tokens are 0 to "
                f"{self.vocabulary - 1}.",
                param=param,
            )


_OWN = (
    *("conversation", "tokenize", "chat_template", "continue_final_message"),
    *("return_dict", "tokenizer_kwargs"),
)


def _ends(folder: Path, config: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a text, wherever the checkpoint names them."""
    file = folder / "generation_config.json"
    told = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    found: list[int] = []
    for ids in (told.get("eos_token_id"), config.eos_token_id, tokenizer.eos_token_id):
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return found
