"""`LLMInference`: the leaf module that stands for one call of a language model."""

import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, cast, overload

from inf_engine.errors import ModuleError, NotBoundError, known_names
from inf_engine.module import InferenceModule
from inf_engine.parameter import Parameter
from inf_engine.schema import OutputType
from inf_engine.tools import Tool, tools_of
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    Message,
    Part,
    TextPart,
)

T = TypeVar("T")
ToolErrors = Literal["return", "raise"]
_ROLES = ("system", "user", "assistant", "tool")


class LLMInference(InferenceModule, Generic[T]):
    """One call of the model behind an alias; its output is text or a typed value.

    Called with text, with messages (`Message` objects or dicts with ``role`` and
    ``content``, images included), or with the fields of its `prompt` template.

    Args:
        alias: The name that the resources bind to an endpoint.
        system_prompt: Text (kept as a frozen `Parameter`) or a `Parameter`.
        prompt: A template with ``{named}`` fields for the user message; a call then
            gives the fields by keyword (or the only one by position).
        response_format: The type of the output: a pydantic model, dataclass,
            TypedDict, Literal, Enum, ``list[str]`` ...; None for text.
        tools: Typed functions, sync or async, that the model may call.
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

    @overload
    def __init__(
        self: "LLMInference[str]",
        alias: str,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        response_format: None = ...,
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | None = ...,
        top_p: float | None = ...,
        max_tokens: int | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        alias: str,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        response_format: type[T],
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | None = ...,
        top_p: float | None = ...,
        max_tokens: int | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "LLMInference[Any]",
        alias: str,
        system_prompt: str | Parameter | None = ...,
        *,
        prompt: str | Parameter | None = ...,
        response_format: Any,
        tools: Iterable[Callable[..., Any] | Tool] = ...,
        temperature: float | None = ...,
        top_p: float | None = ...,
        max_tokens: int | None = ...,
        stop: str | Sequence[str] = ...,
        seed: int | None = ...,
        max_reasks: int = ...,
        max_tool_turns: int = ...,
        tool_errors: ToolErrors = ...,
    ) -> None: ...
    def __init__(
        self,
        alias: str,
        system_prompt: str | Parameter | None = None,
        *,
        prompt: str | Parameter | None = None,
        response_format: Any = None,
        tools: Iterable[Callable[..., Any] | Tool] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        max_reasks: int = 2,
        max_tool_turns: int = 8,
        tool_errors: ToolErrors = "return",
    ) -> None:
        super().__init__()
        self.alias = alias
        self.system_prompt = _as_parameter("system_prompt", system_prompt)
        self.prompt = _as_parameter("prompt", prompt)
        self.response_format = response_format
        self.output_type = OutputType.of(response_format)
        self.tools = tools_of(tools)
        self.temperature = temperature
        self.top_p = top_p
        self.max_tokens = max_tokens
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self.seed = seed
        self.max_reasks = max_reasks
        self.max_tool_turns = max_tool_turns
        self.tool_errors = tool_errors
        self._check()

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Call the model; inside a forward this records the call."""
        return cast(T, super().__call__(*args, **kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> T:
        """Call the model from async code; ``await self.llm.acall(x)`` type-checks."""
        return await super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> T:
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
        if self.system_prompt is not None:
            messages = (Message("system", self.system_prompt.value), *messages)
        return LLMRequest(
            messages=messages,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            stop=self.stop,
            seed=self.seed,
            tools=tuple([tool.spec for tool in self.tools.values()]),
            response_schema=self.output_type.schema,
        )

    def extra_repr(self) -> str:
        """Return the alias and the response format."""
        kind = self.output_type.name if self.response_format is not None else ""
        return f"alias={self.alias!r}" + (f", response_format={kind}" if kind else "")

    def _user_messages(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Message, ...]:
        if self.prompt is not None:
            return (Message("user", _filled(self.prompt.value, args, kwargs)),)
        if kwargs or len(args) != 1:
            raise ModuleError(
                f"LLMInference(alias={self.alias!r}) takes one argument, its prompt; "
                f"it was called with {len(args)} and the keywords {sorted(kwargs)}. "
                "Give it an f-string, or a prompt='... {field} ...' template when you "
                "build it."
            )
        return as_messages(args[0])

    def _check(self) -> None:
        if not isinstance(self.alias, str) or not self.alias:
            raise ModuleError(
                f"the alias of an LLMInference must be a non-empty str, not "
                f"{self.alias!r}: it is the name that the resources bind."
            )
        _check_number("temperature", self.temperature, low=0.0)
        _check_number("top_p", self.top_p, low=0.0, high=1.0, open_low=True)
        for name, low in (("max_tokens", 1), ("max_reasks", 0), ("max_tool_turns", 0)):
            _check_number(name, getattr(self, name), low=low, whole=True)
        _check_number("seed", self.seed, whole=True)
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ModuleError(f"stop must be non-empty texts, not {self.stop!r}.")
        if self.tool_errors not in ("return", "raise"):
            raise ModuleError(
                f"tool_errors must be 'return' or 'raise', not {self.tool_errors!r}."
            )


def as_messages(prompt: Any) -> tuple[Message, ...]:
    """Return the messages that a prompt stands for.

    Args:
        prompt: Text, a `Parameter`, a `Message`, a list of messages (`Message` or
            dicts with ``role`` and ``content``), or a list of text and image parts.

    Raises:
        ModuleError: If it is anything else.
    """
    if isinstance(prompt, (str, Parameter)):
        return (Message("user", str(prompt)),)
    if isinstance(prompt, Message):
        return (prompt,)
    if isinstance(prompt, Mapping):
        return (_as_message(prompt),)
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise ModuleError(
            f"a prompt must be text or messages, not {type(prompt).__name__}: write it "
            "into an f-string, e.g. self.llm(f'{value}')."
        )
    if all(isinstance(item, (str, Parameter, TextPart, ImagePart)) for item in prompt):
        return (Message("user", _as_content(prompt)),)
    return tuple([_as_message(item) for item in prompt])


def _as_message(item: Any) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping) or not {"role", "content"} <= set(item):
        raise ModuleError(
            "a message must be a Message or a dict with 'role' and 'content', not "
            f"{type(item).__name__}."
        )
    role = str(item["role"])
    if role not in _ROLES:
        raise ModuleError(f"unknown role {role!r}; {known_names(role, _ROLES)}")
    return Message(
        item["role"],
        _as_content(item["content"]),
        tool_call_id=str(item.get("tool_call_id", "")),
    )


def _as_content(content: Any) -> str | tuple[Part, ...]:
    if isinstance(content, (str, Parameter)):
        return str(content)
    if not isinstance(content, (list, tuple)):
        raise ModuleError(
            "the content of a message must be text or a list of parts, not "
            f"{type(content).__name__}: write it into an f-string."
        )
    return tuple([_as_part(part) for part in content])


def _as_part(part: Any) -> Part:
    if isinstance(part, (TextPart, ImagePart)):
        return part
    if isinstance(part, (str, Parameter)):
        return TextPart(str(part))
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if isinstance(part, Mapping) and "image_url" in part:
        address = part["image_url"]
        return ImagePart(
            url=address["url"] if isinstance(address, Mapping) else address
        )
    raise ModuleError(
        "a part of a message must be text, a TextPart, an ImagePart, "
        "{'type': 'text', 'text': ...} or {'type': 'image_url', 'image_url': ...}, not "
        f"{type(part).__name__}."
    )


def template_fields(template: str) -> list[str]:
    """Return the names of the ``{fields}`` of a template, each once, in order.

    Raises:
        ModuleError: If the template is broken or has fields without a name.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
    except ValueError as exc:
        raise ModuleError(
            f"broken prompt template: {exc}. Double the braces that are plain text."
        ) from exc
    names = [field for field in fields if field is not None]
    roots = [name.split(".")[0].split("[")[0] for name in names]
    if not all(roots):
        raise ModuleError(
            "a prompt template has a field without a name: write {name}, or {{}} for "
            "plain braces."
        )
    return list(dict.fromkeys(roots))


def _filled(template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    fields = template_fields(template)
    if args and len(args) == len(fields) == 1 and not kwargs:
        kwargs = {fields[0]: args[0]}
        args = ()
    missing = [name for name in fields if name not in kwargs]
    unknown = [name for name in kwargs if name not in fields]
    if args or missing or unknown:
        raise ModuleError(
            f"the prompt template has the fields {fields}; missing {missing}, unknown "
            f"{unknown}, {len(args)} given by position. Give each field by keyword."
        )
    return template.format(**kwargs)


def _as_parameter(name: str, value: Any) -> Parameter | None:
    """Return the parameter of a text: frozen if it was given as plain text."""
    if value is None or isinstance(value, Parameter):
        return value
    return Parameter(value, description=name, requires_grad=False)


def _check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    whole: bool = False,
    open_low: bool = False,
) -> None:
    if value is None:
        return
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ModuleError(
            f"{name} must be {'an int' if whole else 'a number'}, not {value!r}."
        )
    too_low = low is not None and (value <= low if open_low else value < low)
    if too_low or (high is not None and value > high) or value != value:
        raise ModuleError(f"{name} is out of range: {value!r}.")
