"""`Base`: one model in memory with several adapters in it, by name.

The model is loaded once and its weights are never touched; an adapter is a few small
matrices beside them. Every call says which adapter it means (None: the base itself), so
no call depends on the one before. A batch is laid out as

    [pad ... prompt | answer ... pad]

so that the logits of all answers are the last columns, and nothing else of the
vocabulary's width is ever computed.

Sampling is our own loop: at temperature 1 and without truncation (the only kind that a
policy gradient may take as it is), with a generator of its own, so that one seed gives
one text whatever else runs in the process.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from claas.errors import ConfigurationError, NotFoundError
from claas.library import (
    CONFIG,
    WEIGHTS,
    check_fits,
    read_model,
    with_adapter,
    write_tensors,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ROWS = 16  # that are generated at once


@dataclass(frozen=True, slots=True)
class Sampled:
    """An answer.

    Args:
        token_ids: Its tokens, the one that ended it included.
        logprobs: Their log probabilities at temperature 1, natural.
        text: Without special tokens.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Prompts and answers as one padded batch.

    Args:
        ids: Tokens, [batch, prompt + answer].
        attention: 1 where there is a token, [batch, prompt + answer].
        answers: The tokens of the answers, [batch, answer].
        mask: 1 where an answer has a token, [batch, answer], float.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    answers: torch.Tensor
    mask: torch.Tensor


class Base:
    """A causal language model and the adapters in it.

    Args:
        model: A transformers model; its parameters are frozen.
        tokenizer: Its tokenizer, with a chat template.
        name: What hints and messages call it.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self._model = model.requires_grad_(requires_grad=False).eval()
        self._keys: dict[str, str] = {}
        self._added = 0

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> "Base":
        """Load a model.

        Args:
            model: A folder of transformers' files, a GGUF file (converted once), a
                model of the Hub (``org/name``, ``org/name@revision``), or
                ``"smollm2"``.
            device: ``cpu``, ``cuda``, ``cuda:1``.
            dtype: ``float32`` or ``bfloat16``, of the base; adapters are float32.
            threads: How many threads torch uses in this process; None leaves it.
            cache: Where converted models are kept; None for butterfly's own place.

        Raises:
            ConfigurationError: If the model, the device or the dtype is not there.
        """
        if dtype not in _DTYPES:
            raise ConfigurationError(
                f"there is no dtype {dtype!r} for the base model: choose "
                f"{' or '.join(_DTYPES)}."
            )
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigurationError(
                f"the device {device!r} is not there: torch sees no GPU. Say 'cpu', or "
                "install a torch that was built for CUDA."
            )
        if threads is not None:
            torch.set_num_threads(threads)
        loaded, tokenizer = read_model(model, _DTYPES[dtype], cache)
        return cls(loaded.to(device), tokenizer, name=model)

    @property
    def folder(self) -> str:
        """Where the model was loaded from: its config is there."""
        return str(self._model.config._name_or_path)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self._model.parameters()).device

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded."""
        return tuple(self._keys)

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter.

        Args:
            name: What calls will say; nothing may have it yet.
            folder: PEFT's files.

        Raises:
            ConfigurationError: If the name is taken, or the files are not there or do
                not fit this model. Nothing is loaded then.
        """
        if name in self._keys:
            raise ConfigurationError(
                f"an adapter {name!r} is loaded already: drop it first, or take "
                "another name."
            )
        if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
            raise ConfigurationError(
                f"{folder} is no adapter: it needs {CONFIG} and {WEIGHTS}."
            )
        plain = self._model.get_base_model() if self._keys else self._model
        check_fits(plain, folder)
        self._added += 1
        self._keys[name] = f"a{self._added}"
        self._model = with_adapter(self._model, self._keys[name], folder)

    def drop(self, name: str) -> None:
        """Unload an adapter.

        Args:
            name: Its name.

        Raises:
            NotFoundError: If there is none.
        """
        key = self._key(name)
        if len(self._keys) == 1:  # PEFT cannot be left without any
            self._model = self._model.unload()
        else:
            self._model.set_adapter(next(k for k in self._keys.values() if k != key))
            self._model.delete_adapter(key)
        del self._keys[name]

    @contextmanager
    def adapter(self, folder: Path | None) -> Generator[str | None, None, None]:
        """Hold an adapter for a while.

        Args:
            folder: PEFT's files; None for the base itself.

        Yields:
            The name to call it by.
        """
        if folder is None:
            yield None
            return
        name = f"{folder}#{self._added}"
        self.add(name, folder)
        try:
            yield name
        finally:
            self.drop(name)

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Return what an adapter consists of, by the names that its file has.

        Args:
            name: The adapter.

        Raises:
            NotFoundError: If there is none.
        """
        mark = f".{self._key(name)}."
        return {
            found.replace(mark, "."): parameter
            for found, parameter in self._model.named_parameters()
            if mark in found
        }

    def save(self, name: str, folder: Path, like: Path) -> None:
        """Write an adapter.

        Args:
            name: The adapter.
            folder: Where to; made if need be.
            like: Where it was loaded from: its configuration is taken over as it is.

        Raises:
            NotFoundError: If there is none.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_bytes((like / CONFIG).read_bytes())
        write_tensors(folder / WEIGHTS, self.parameters(name))

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation, up to where the answer begins.

        Args:
            messages: The conversation; one message of the role ``prompt`` is plain, and
                has the tokens before it that begin a text, as on an inference server.
            tools: The tools that the model may call.

        Raises:
            ConfigurationError: If the template of this model refuses it.
        """
        if [message["role"] for message in messages] == ["prompt"]:
            text = _plain(messages[0]["content"])
            return tuple(self.tokenizer(text)["input_ids"])
        told = [{**m, "content": _plain(m.get("content"))} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                told,
                tools=list(tools) or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as exc:  # noqa: BLE001 - a template raises what it likes
            raise ConfigurationError(
                f"the chat template of {self.name!r} refuses the conversation of "
                f"{len(told)} messages ({type(exc).__name__}): give the tokenizer a "
                "template that takes it."
            ) from exc
        return self.encode(text)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, none added.

        Args:
            text: The text.
        """
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out.

        Args:
            ids: The tokens.
        """
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self._ends[0]

    @property
    def positions(self) -> int:
        """How many tokens fit into the model."""
        return int(self._model.config.max_position_embeddings)

    def rows(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> Rows:
        """Lay prompts and answers out as one batch.

        Args:
            prompts: Tokens; none may be empty.
            answers: Tokens, one answer for each prompt.
        """
        before, after = (max(map(len, some), default=0) for some in (prompts, answers))
        after = max(after, 1)
        ids = torch.full((len(prompts), before + after), self.end)
        attention = torch.zeros_like(ids)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            there = slice(before - len(prompt), before + len(answer))
            ids[row, there] = torch.tensor([*prompt, *answer])
            attention[row, there] = 1
        ids, attention = ids.to(self.device), attention.to(self.device)
        return Rows(ids, attention, ids[:, before:], attention[:, before:].float())

    def logits(self, rows: Rows, name: str | None) -> torch.Tensor:
        """Return what the model says at each token of the answers.

        Args:
            rows: The batch.
            name: The adapter, None for the base.

        Returns:
            Logits before each token, [batch, answer, vocabulary], with gradients to
            the adapter's parameters unless under ``torch.no_grad``.

        Raises:
            NotFoundError: If there is no such adapter.
        """
        self._use(name)
        length = rows.answers.shape[1]
        said = self._model(
            input_ids=rows.ids,
            attention_mask=rows.attention,
            position_ids=_positions(rows.attention),
            use_cache=False,
            logits_to_keep=length + 1,
        )
        return said.logits[:, :-1]

    @torch.no_grad()
    def logprobs(self, rows: Rows, name: str | None) -> torch.Tensor:
        """Return the log probability of each token of the answers.

        Args:
            rows: The batch.
            name: The adapter, None for the base.

        Returns:
            [batch, answer], 0 where there is no token.

        Raises:
            NotFoundError: If there is no such adapter.
        """
        logits = self.logits(rows, name)
        return gathered(logits, rows.answers) * rows.mask

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        name: str | None,
        *,
        most: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[Sampled]:
        """Answer prompts.

        Args:
            prompts: Tokens; the same prompt twice gets two answers.
            name: The adapter, None for the base.
            most: How many tokens an answer may have.
            temperature: 0 takes the likeliest token each time.
            seed: Of the chance.

        Raises:
            NotFoundError: If there is no such adapter.
        """
        self._use(name)
        chance = torch.Generator().manual_seed(seed)
        found = []
        for at in range(0, len(prompts), _ROWS):
            some = prompts[at : at + _ROWS]
            found += self._sampled(some, most, temperature, chance)
        return found

    def _sampled(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        temperature: float,
        chance: torch.Generator,
    ) -> list[Sampled]:
        """Answer a batch of prompts, a token of each at a time."""
        rows = self.rows(prompts, [()] * len(prompts))
        ids, attention = rows.ids[:, :-1], rows.attention[:, :-1]
        positions, cache = _positions(attention), None
        tokens: list[torch.Tensor] = []
        told: list[torch.Tensor] = []
        running = torch.ones(len(prompts), dtype=torch.bool)
        while len(tokens) < most and running.any():
            said = self._model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logprobs = torch.log_softmax(said.logits[:, -1].float(), dim=-1).cpu()
            token = _drawn(logprobs, temperature, chance)
            token[~running] = self.end
            tokens.append(token)
            told.append(logprobs.gather(1, token[:, None])[:, 0])
            running &= ~torch.isin(token, torch.tensor(self._ends))
            ids, cache = token[:, None].to(self.device), said.past_key_values
            attention = torch.cat([attention, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
        return [self._answer(row, tokens, told) for row in range(len(prompts))]

    def _answer(
        self, row: int, tokens: list[torch.Tensor], told: list[torch.Tensor]
    ) -> Sampled:
        """Return one row of what was drawn, up to its end."""
        ids = [int(token[row]) for token in tokens]
        ends = [at for at, token in enumerate(ids) if token in self._ends]
        ids = ids[: ends[0] + 1] if ends else ids
        logprobs = tuple(float(some[row]) for some in told[: len(ids)])
        return Sampled(tuple(ids), logprobs, self.decode(ids))

    @property
    def _ends(self) -> list[int]:
        """The tokens that end an answer."""
        config = getattr(self._model, "generation_config", None) or self._model.config
        ends = config.eos_token_id
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return list(ends) if isinstance(ends, (list, tuple)) else [int(ends)]

    def _key(self, name: str) -> str:
        if name not in self._keys:
            raise NotFoundError(
                f"no adapter {name!r} is loaded into the base model: there are "
                f"{', '.join(self._keys) or 'none'}."
            )
        return self._keys[name]

    def _use(self, name: str | None) -> None:
        """Make one adapter, or none, the one that the next forward passes through."""
        if not self._keys:
            if name is not None:
                self._key(name)
            return
        if name is None:
            self._model.base_model.disable_adapter_layers()
            return
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(self._key(name))


def gathered(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the log probabilities of tokens, in float32.

    Args:
        logits: [batch, answer, vocabulary].
        tokens: [batch, answer].
    """
    chosen = logits.gather(-1, tokens[..., None])[..., 0].float()
    return chosen - torch.logsumexp(logits.float(), dim=-1)


def _positions(attention: torch.Tensor) -> torch.Tensor:
    """Return where each token stands, counted without the padding before it."""
    return (attention.cumsum(-1) - 1).clamp(min=0)


def _drawn(
    logprobs: torch.Tensor, temperature: float, chance: torch.Generator
) -> torch.Tensor:
    """Return a token for each row."""
    if temperature <= 0:
        return logprobs.argmax(-1)
    weights = torch.softmax(logprobs / temperature, dim=-1)
    return torch.multinomial(weights, 1, generator=chance)[:, 0]


def _plain(content: Any) -> str:
    """Return the text of a message, whichever form it has."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
