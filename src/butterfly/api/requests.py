"""What clients send: OpenAI's fields, and those of vLLM that butterfly answers.

A field that is not known is ignored, as vLLM does. One that is known and would change
the answer is refused: it is never left out silently.
"""

import secrets
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from butterfly.api.refusals import Refusal
from butterfly.api.tools import Toolbox, toolbox_of
from butterfly.communication.frames import Sampling
from butterfly.communication.penalties import Penalties

MOST_LOGPROBS = 20
MOST_BIASES = 1024
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "bad_words": (None, []),
    "chat_template": (None, ""),
    "documents": (None, []),
    "function_call": (None, "none"),
    "functions": (None, []),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "length_penalty": (None, 1),
    "min_tokens": (None, 0),
    "modalities": (None, [], ["text"]),
    "prompt_embeds": (None,),
    "structured_outputs": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
}

Logprobs = Annotated[int, Field(ge=0, le=MOST_LOGPROBS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """How to stream.

    Args:
        include_usage: Whether a last chunk counts the tokens.
    """

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What both kinds of completions can be asked for; None is the default.

    Args:
        model: Which model, None for the one there is.
        stream: Whether to send tokens as they come.
        stream_options: How.
        n: How many answers.
        temperature: 0 for the most probable token; 1 by default.
        top_p: The probability that the tokens to choose from have together.
        top_k: How many tokens to choose from; -1 or 0 for all.
        min_p: The least probability, as a share of the most probable token's.
        presence_penalty: What is taken off the logits of tokens of the answer.
        frequency_penalty: What is taken off for each time that they are in it.
        repetition_penalty: What positive logits of tokens of prompt and answer are
            divided by, and negative ones multiplied with.
        logit_bias: What is added to the logits of tokens, by their numbers.
        seed: The same seed gives the same answer.
        stop: Texts that end an answer, and are not in it.
        best_of: As `n`: all answers that are made are given.
        stop_token_ids: Tokens that end it.
        ignore_eos: Whether the model's end of text does not end it.
        include_stop_str_in_output: Whether the stop is in the answer.
        skip_special_tokens: Whether special tokens are left out of the text.
        max_tokens: How many tokens to generate at most.
        prompt_logprobs: Of how many tokens at each place of the prompt to report the
            log probability.
        return_token_ids: Whether the tokens of prompt and answer are wanted.
        priority: Lower goes first, as in vLLM.
        response_format: A form that the answer must have.
        butterfly: Whether to report what the stages did.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[int, Bias], Field(max_length=MOST_BIASES)] | None = None
    seed: int | None = None
    stop: Annotated[list[Stop], Field(max_length=16)] | None = None
    best_of: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    prompt_logprobs: Logprobs | None = None
    return_token_ids: bool | None = False
    priority: int = 0
    response_format: dict[str, Any] | None = None
    butterfly: bool | None = False

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return list(self.stop or [])

    @property
    def count(self) -> int:
        """How many answers are wanted for each prompt."""
        return self.n or 1

    @property
    def has_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def chances(self) -> int | None:
        """Of how many tokens to report the log probability; None for no report."""
        return None

    def toolbox(self) -> Toolbox | None:
        """Return the functions that may be called; None if there are none.

        Raises:
            Refusal: If they are not as OpenAI has them.
        """
        return None

    def check(self) -> None:
        """Refuse what would be left out silently.

        Raises:
            Refusal: If there is such a field.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise Refusal(f"{name!r} is not supported: leave it out.", param=name)
        if self.best_of not in (None, self.count):
            raise Refusal(
                f"'best_of' is {self.best_of}, and 'n' {self.count}: all answers that "
                "are made are given, so leave it out.",
                param="best_of",
            )
        if self.stream_options is not None and not self.stream:
            raise Refusal(
                "'stream_options' needs 'stream': true.", param="stream_options"
            )
        if self.stream and self.prompt_logprobs is not None:
            raise Refusal(
                "'prompt_logprobs' cannot be streamed: leave out 'stream'.",
                param="prompt_logprobs",
            )

    def penalties(self) -> Penalties | None:
        """Return how what was said changes what is said next; None for not at all."""
        found = Penalties(
            tuple((self.logit_bias or {}).items()),
            self.repetition_penalty or 1.0,
            self.frequency_penalty or 0.0,
            self.presence_penalty or 0.0,
        )
        return None if found == Penalties() else found

    def samplings(self) -> list[Sampling]:
        """Return how to sample each of the answers to a prompt."""
        seed = secrets.randbits(64) if self.seed is None else self.seed
        asked = [v for v in (self.chances, self.prompt_logprobs) if v is not None]
        return [
            Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=self.top_p or 1.0,
                top_k=max(0, self.top_k or 0),
                min_p=self.min_p or 0.0,
                seed=(seed + number) % 2**64,
                top_logprobs=max(asked, default=None),
            )
            for number in range(self.count)
        ]


class ChatRequest(GenerationRequest):
    """What `/v1/chat/completions` takes.

    Args:
        messages: The conversation.
        max_completion_tokens: How many tokens to generate at most.
        logprobs: Whether to report the log probability of tokens.
        top_logprobs: Of how many of the most probable tokens, too.
        add_generation_prompt: Whether the assistant's turn is begun.
        continue_final_message: Whether the last message is gone on with.
        chat_template_kwargs: What the chat template is given besides.
        tools: The functions that may be called.
        tool_choice: Which of them, and whether one must be.
        parallel_tool_calls: Whether there may be several calls.
    """

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Logprobs | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True

    def toolbox(self) -> Toolbox | None:
        """Return the functions that may be called; None if there are none.

        Raises:
            Refusal: If they are not as OpenAI has them.
        """
        is_single = self.parallel_tool_calls is False
        return toolbox_of(self.tools, self.tool_choice, is_single=is_single)

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            Refusal: If something does not.
        """
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise Refusal(
                "'top_logprobs' needs 'logprobs': true.", param="top_logprobs"
            )
        if self.max_tokens == 0:
            raise Refusal("'max_tokens' must be at least 1.", param="max_tokens")

    @property
    def limit(self) -> int | None:
        """How many tokens to generate at most; None for as many as there is room."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def chances(self) -> int | None:
        """Of how many tokens to report the log probability; None for no report."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """What `/v1/completions` takes.

    Args:
        prompt: A text, several, token ids, or several lists of them.
        echo: Whether the prompt is in the answer.
        logprobs: Of how many of the most probable tokens to report the log
            probability; None for no report.
        add_special_tokens: Whether tokens that begin a text are put before it.
    """

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = False
    logprobs: Logprobs | None = None
    add_special_tokens: bool = True

    @field_validator("prompt", mode="before")
    @classmethod
    def _known(cls, prompt: Any) -> Any:
        if not isinstance(prompt, str) and not _are_prompts(prompt):
            raise ValueError(
                "send a text, a list of tokens, or a list of either; no mixture, and "
                "at least one"
            )
        return prompt

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each a text or a list of tokens."""
        given: Any = self.prompt
        is_one = isinstance(given, str) or not given or isinstance(given[0], int)
        return [given] if is_one else given

    @property
    def limit(self) -> int:
        """How many tokens to generate at most."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def chances(self) -> int | None:
        """Of how many tokens to report the log probability; None for no report."""
        return self.logprobs


def _are_prompts(given: Any) -> bool:
    """Say whether something is a list of texts, of tokens, or of lists of tokens."""
    if not isinstance(given, list) or not given:
        return False
    if isinstance(given[0], list):
        return all(isinstance(part, list) and _are_tokens(part) for part in given)
    return _are_tokens(given) or all(isinstance(part, str) for part in given)


def _are_tokens(given: list[Any]) -> bool:
    return all(type(token) is int for token in given)


class LoadAdapterRequest(BaseModel):
    """What `/v1/load_lora_adapter` takes, as vLLM's.

    Args:
        lora_name: What requests will call it, as their model.
        lora_path: The folder where PEFT saved it, on every node.
    """

    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)


class UnloadAdapterRequest(BaseModel):
    """What `/v1/unload_lora_adapter` takes, as vLLM's.

    Args:
        lora_name: What requests call it.
    """

    lora_name: str


class TokenizeRequest(BaseModel):
    """What `/tokenize` takes: a prompt or messages.

    Args:
        model: Which model, None for the one there is.
        prompt: A text.
        messages: A conversation.
        add_special_tokens: Whether tokens that begin a text are put before it; None
            for yes before a prompt, and no before messages.
        add_generation_prompt: Whether the assistant's turn is begun.
        continue_final_message: Whether the last message is gone on with.
        chat_template_kwargs: What the chat template is given besides.
        tools: The functions that may be called.
        return_token_strs: Whether the text of each token is wanted.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(BaseModel):
    """What `/detokenize` takes.

    Args:
        model: Which model, None for the one there is.
        tokens: The tokens.
    """

    model: str | None = None
    tokens: list[int]
