"""`LLMInference`: the leaf module that stands for one call of a language model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from inf_engine.demos import Demo, DemoParameter
from inf_engine.errors import (
    ModuleError,
    NotBoundError,
    ParameterTypeError,
)
from inf_engine.messages import (
    as_messages,
    by_field,
    content_of,
    filled_prompt,
    template_fields,
)
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter
from inf_engine.schema import OutputType
from inf_engine.tools import Tool, tools_of
from inf_engine.types import LLMRequest, Message

T = TypeVar("T")
ToolErrors = Literal["return", "raise"]


class LLMInference(InferenceModule, Generic[T]):
    """One call of the model behind an alias; its output is text or a typed value.

    Called with text, with messages (`Message` objects or dicts with ``role`` and
    ``content``, images included), or with the fields of its `prompt` template.

    Args:
        alias: The name that the resources bind to an endpoint. It, `temperature`,
            `top_p`, `max_tokens` and `seed` may be a `ChoiceParameter`; reading the
            attribute gives the value that is chosen.
        system_prompt: Text (kept as a frozen `Parameter`) or a `Parameter`.
        prompt: A template with ``{named}`` fields for the user message; a call then
            gives the fields by keyword (or the only one by position).
        demos: Demonstrations, shown as turns of the conversation before it begins: a
            `DemoParameter`, or `Demo` objects, which are kept as a frozen one. The one
            that asks what the call asks is left out.
        response_format: The type of the output: a pydantic model, dataclass,
            TypedDict, Literal, Enum, ``list[str]`` ...; None for text.
        tools: Typed functions, sync or async, that the model may call. They run again
            in a run that is resumed, but for an ``@op(journal=True)``.
        temperature: Sampling temperature, ≥ 0; None for the endpoint's default.
        top_p: Nucleus sampling mass in (0, 1].
        max_tokens: The most tokens to write, ≥ 1.
        stop: A text, or several, that end the answer.
        seed: Sampling seed, where the provider has one.
        max_reasks: How often an answer that does not fit `response_format` is asked
            again, with the error.
        max_tool_turns: How many turns of tool calls are answered.
        tool_errors: ``"return"`` tells the model what a tool raised, ``"raise"`` lets
            it out.

    Raises:
        ModuleError: If an argument has a wrong type or range.
        SchemaError: If a tool has no usable schema.

    Example:
        >>> LLMInference(alias="fast", system_prompt="List the key facts.")
        LLMInference(alias='fast'
          (system_prompt): Parameter('List the key facts.', requires_grad=False)
        )
    """

    leaf = True
    output_type: OutputType
    demos: DemoParameter | None
    alias: str
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None

    @overload
    def __init__(
        self: "LLMInference[str]",
        alias: str | Parameter,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        demos: DemoParameter | Iterable[Demo] | None = ...,
        response_format: None = ...,
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | Parameter | None = ...,
        top_p: float | Parameter | None = ...,
        max_tokens: int | Parameter | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | Parameter | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        alias: str | Parameter,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        demos: DemoParameter | Iterable[Demo] | None = ...,
        response_format: type[T],
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | Parameter | None = ...,
        top_p: float | Parameter | None = ...,
        max_tokens: int | Parameter | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | Parameter | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "LLMInference[Any]",
        alias: str | Parameter,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        demos: DemoParameter | Iterable[Demo] | None = ...,
        response_format: Any,
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | Parameter | None = ...,
        top_p: float | Parameter | None = ...,
        max_tokens: int | Parameter | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | Parameter | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    def __init__(
        self,
        alias: str | Parameter,
        system_prompt: str | Parameter | None = None,
        *,
        prompt: str | Parameter | None = None,
        demos: DemoParameter | Iterable[Demo] | None = None,
        response_format: Any = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
        temperature: float | Parameter | None = None,
        top_p: float | Parameter | None = None,
        max_tokens: int | Parameter | None = None,
        stop: str | Sequence[str] = (),
        seed: int | Parameter | None = None,
        max_reasks: int = 2,
        max_tool_turns: int = 8,
        tool_errors: ToolErrors = "return",
    ) -> None:
        super().__init__()
        self.alias = cast(Any, alias)
        self.system_prompt = _as_parameter("system_prompt", system_prompt)
        self.prompt = _as_parameter("prompt", prompt)
        self.demos = cast(Any, demos)
        self.response_format = response_format
        self.tools = tools_of(tools)
        self.temperature = cast(Any, temperature)
        self.top_p = cast(Any, top_p)
        self.max_tokens = cast(Any, max_tokens)
        self.stop = _as_stop(stop)
        self.seed = cast(Any, seed)
        self.max_reasks = max_reasks
        self.max_tool_turns = max_tool_turns
        self.tool_errors = tool_errors

    def __setattr__(self, name: str, value: Any) -> None:
        """Check an argument, whether given at first or assigned later."""
        check = _ARGUMENTS.get(name)
        if name == "response_format":
            super().__setattr__("output_type", OutputType.of(value))
        super().__setattr__(name, value if check is None else check(name, value))

    def _shadow(self, name: str, held: Any) -> None:
        """Let an argument that is a choice read as the value that is chosen."""
        super()._shadow(name, held.value if name in _CHOOSABLE else held)

    def _parameter_changed(self, parameter: Parameter) -> None:
        """Take over another choice."""
        for name in _CHOOSABLE:
            if self._parameters.get(name) is parameter:
                self.__dict__[name] = parameter.value

    if TYPE_CHECKING:

        def __call__(self, /, *args: Any, **kwargs: Any) -> T:
            """Call the model; inside a forward this records the call."""
            ...

    async def acall(self, /, *args: Any, **kwargs: Any) -> T:
        """Call the model from async code; ``await self.llm.acall(x)`` type-checks."""
        return await super().__call__(*args, **kwargs)

    def forward(self, /, *args: Any, **kwargs: Any) -> T:
        """Refuse: nobody answers the call.

        Raises:
            NotBoundError: Always.
        """
        raise NotBoundError(
            f"nobody answers this call of LLMInference(alias={self.alias!r}): it was "
            "made outside of a running forward. Run the module with "
            "'await engine.run(module, ...)' or bind it with module.bind(engine). In a "
            "thread or in an @op function no forward is running: call the model in "
            "forward, and give slow Python to @op(thread=True)."
        )

    def build_request(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> LLMRequest:
        """Return the first request of a call.

        Args:
            args: The positional arguments of the call, all known.
            kwargs: The keyword arguments, all known.

        Raises:
            ModuleError: If they are not text, messages or the template's fields.
        """
        messages = self._user_messages(args, kwargs)
        if self.demos is not None:
            place = _beginning(messages)
            turns = self._turns(self.demos, args, kwargs, messages)
            messages = (*messages[:place], *turns, *messages[place:])
        if self.system_prompt is not None and (system := self.system_prompt.value):
            messages = (_system_message(system), *messages)
        return LLMRequest(
            messages=messages,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=self.stop,
            seed=self.seed,
            tools=tuple([t.spec for t in self.tools.values()]) if self.tools else (),
            response_schema=self.output_type.schema,
        )

    def shown_turns(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Message, ...]:
        """Return the turns that show demonstrations in a call; often there are none.

        Args:
            args: The positional arguments of the call, all known.
            kwargs: The keyword arguments, all known.

        Raises:
            ModuleError: As `build_request`.
        """
        if self.demos is None:
            return ()
        messages = self._user_messages(args, kwargs)
        return self._turns(self.demos, args, kwargs, messages)

    def extra_repr(self) -> str:
        """Return the alias and the response format."""
        kind = self.output_type.name if self.response_format is not None else ""
        return f"alias={self.alias!r}" + (f", response_format={kind}" if kind else "")

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call that cannot work, before anything is paid for it.

        Args:
            args: The positional arguments of the call; their values may come later.
            kwargs: The keyword arguments, likewise.

        Raises:
            ModuleError: If they are not one prompt, or the template's fields.
        """
        if self.prompt is not None:
            by_field(self.prompt.value, args, kwargs)
        elif kwargs or len(args) != 1:
            raise ModuleError(
                f"LLMInference(alias={self.alias!r}) takes one argument, its prompt; "
                f"it was called with {len(args)} and the keywords {sorted(kwargs)}. "
                "Give it an f-string, or a prompt='... {field} ...' template when you "
                "build it."
            )

    def _user_messages(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Message, ...]:
        if self.prompt is not None:
            text = filled_prompt(self.prompt.value, args, kwargs)
            return (Message("user", content_of(text)),)
        self.check_call(args, kwargs)
        return as_messages(args[0])

    def _turns(
        self,
        demos: DemoParameter,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        messages: Sequence[Message],
    ) -> tuple[Message, ...]:
        """Return the demonstrations of a call whose own messages are these."""
        template = None if self.prompt is None else self.prompt.value
        fields = {} if template is None else by_field(template, args, kwargs)
        said = [message.text for message in messages if message.role == "user"]
        question = said[-1] if said else ""
        return demos.turns(template, fields, self.output_type, question)


def _beginning(messages: Sequence[Message]) -> int:
    """Return where the conversation begins: after the system messages."""
    roles = [message.role for message in messages[:-1]]
    is_system = [role == "system" for role in roles]
    return [*is_system, False].index(False)


@lru_cache(maxsize=64)
def _system_message(text: str) -> Message:
    """Return the message of a system prompt, which most requests share."""
    return Message("system", text)


def _as_parameter(name: str, value: Any) -> Parameter | None:
    """Return the parameter of a text: frozen if it was given as plain text."""
    if isinstance(value, Parameter):
        _check_texts(name, value)
    if value is None or isinstance(value, Parameter):
        return value
    if not isinstance(value, str):
        raise ParameterTypeError(
            f"{name} must be a str or a Parameter, not {type(value).__name__}."
        )
    return Parameter(value, description=name, requires_grad=False)


def _as_prompt(name: str, value: Any) -> Parameter | None:
    """Return the parameter of a template, and refuse a broken one."""
    prompt = _as_parameter(name, value)
    if prompt is None:
        return None
    if not prompt.is_text and prompt.choices is None:
        raise ModuleError(
            f"a {type(prompt).__name__} is no template with fields: write "
            "prompt='{demos} ... {question}', and give demos=self.demos in the call."
        )
    for text in prompt.choices or (prompt.value,):
        template_fields(text)
    return prompt


def _as_demos(name: str, value: Any) -> DemoParameter | None:
    """Return the parameter of demonstrations: frozen if they were given as such."""
    if value is None or isinstance(value, DemoParameter):
        return value
    if isinstance(value, Parameter):
        raise ParameterTypeError(
            f"{name} must be a DemoParameter or a list of Demo objects, not a "
            f"{type(value).__name__}: write demos=DemoParameter()."
        )
    return DemoParameter(value, description=name, requires_grad=False)


def _check_texts(name: str, parameter: Parameter) -> None:
    """Refuse a choice among values that are not all texts."""
    for choice in parameter.choices or ():
        if not isinstance(choice, str):
            raise ParameterTypeError(
                f"{name} must be a str or a Parameter; one of the choices is of type "
                f"{type(choice).__name__}."
            )


def _or_choice(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return the check of an argument that may be a choice among good values."""

    def checked(name: str, value: Any) -> Any:
        if not isinstance(value, Parameter):
            return check(name, value)
        if value.choices is None:
            raise ModuleError(
                f"{name} must be a plain value or a ChoiceParameter, not a "
                f"{type(value).__name__}: write ChoiceParameter(value, choices)."
            )
        for choice in value.choices:
            check(name, choice)
        return value

    return checked


def _as_alias(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ModuleError(
            f"the alias of an LLMInference must be a non-empty str, not {value!r}: it "
            "is the name that the resources bind."
        )
    return value


def _as_stop(value: Any) -> tuple[str, ...]:
    """Return the texts that end an answer."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(
        isinstance(text, str) and text for text in texts
    ):
        raise ModuleError(
            f"stop must be a non-empty text or a list of such, not {value!r}."
        )
    return tuple(texts)


def _as_tools(value: Any) -> dict[str, Tool]:
    return tools_of(list(value.values()) if isinstance(value, dict) else value)


def _as_tool_errors(name: str, value: Any) -> Any:
    if value not in ("return", "raise"):
        raise ModuleError(f"tool_errors must be 'return' or 'raise', not {value!r}.")
    return value


def _number(
    *kinds: type[int] | type[float],
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    optional: bool = True,
) -> Callable[[str, Any], Any]:
    """Return the check of a number: finite, `above` < number, `low` to `high`."""

    def check(name: str, value: Any) -> Any:
        if value is None and optional:
            return value
        if isinstance(value, bool) or not isinstance(value, kinds):
            kind = "a number" if float in kinds else "an int"
            raise ModuleError(f"{name} must be {kind}, not {value!r}.")
        finite = -math.inf < value < math.inf
        if not (finite and low <= value <= high and value > above):
            raise ModuleError(
                f"{name} is out of range: {value!r} is not {_range(low, high, above)}."
            )
        return value

    return check


def _range(low: float, high: float, above: float) -> str:
    """Return the words for a range of numbers."""
    words = [f"at least {low:g}"] if low > -math.inf else []
    words += [f"above {above:g}"] if above > -math.inf else []
    words += [f"at most {high:g}"] if high < math.inf else []
    return " and ".join(words) or "finite"


_CHOOSABLE = ("alias", "temperature", "top_p", "max_tokens", "seed")

_ARGUMENTS: Mapping[str, Callable[[str, Any], Any]] = {
    "alias": _or_choice(_as_alias),
    "system_prompt": _as_parameter,
    "prompt": _as_prompt,
    "demos": _as_demos,
    "tools": lambda _, value: _as_tools(value),
    "temperature": _or_choice(_number(int, float, low=0)),
    "top_p": _or_choice(_number(int, float, above=0, high=1)),
    "max_tokens": _or_choice(_number(int, low=1)),
    "stop": lambda _, value: _as_stop(value),
    "seed": _or_choice(_number(int)),
    "max_reasks": _number(int, low=0, optional=False),
    "max_tool_turns": _number(int, low=0, optional=False),
    "tool_errors": _as_tool_errors,
}
