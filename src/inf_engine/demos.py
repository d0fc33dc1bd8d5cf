"""`DemoParameter`: few-shot demonstrations as a parameter.

Its value is text as of any parameter: the demonstrations as a model reads them, at most
so many tokens of them, and "" without any. Its state, what `state_dict` has and
`load_state_dict` takes, is the demonstrations themselves: a list of JSON objects.

Best it is the ``demos`` of a model call, which then shows them as turns of the
conversation: what was asked as the user's words, what was answered as the model's own.
Small models need them so::

    self.llm = LLMInference("fast", "Sort it.", demos=DemoParameter())

As text it stands where any parameter stands: as a system prompt (a call without
demonstrations has none then), in an f-string of forward, or after a system prompt::

    self.llm([
        {"role": "system", "content": f"{self.rules}\\n\\n{self.demos}"},
        {"role": "user", "content": question},
    ])

Feedback in words is not for it, so it keeps none: optimizers look for demonstrations
that raise the score, `BootstrapDemos` for nothing else.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from inf_engine.errors import ModuleError, ParameterTypeError, ParameterValueError
from inf_engine.messages import filled_fields, template_fields
from inf_engine.parameter import Parameter
from inf_engine.schema import OutputType
from inf_engine.types import CHARACTERS_PER_TOKEN, Message

JSON: TypeAlias = Any
"""What JSON can write: text, numbers, booleans, None, lists, dicts with text keys."""

_KEYS = ("inputs", "output", "source")


@dataclass(frozen=True, slots=True)
class Demo:
    """One call of a model, shown to it as an example.

    Args:
        inputs: What it was asked: fields by name, or text.
        output: What it answered: text, or what a typed answer is as JSON.
        source: The digest of the inputs of the run that it is from, empty if it was
            written by hand. Where that run is tested, the demonstration is not used.

    Raises:
        ParameterTypeError: If it is no JSON.

    Example:
        >>> Demo("2 + 2?", "4").state
        {'inputs': '2 + 2?', 'output': '4'}
    """

    inputs: Mapping[str, JSON] | str
    output: JSON
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, str | Mapping):
            raise ParameterTypeError(
                "the inputs of a Demo must be a str or a dict of fields, not "
                f"{type(self.inputs).__name__}."
            )
        if not isinstance(self.source, str):
            raise ParameterTypeError(
                f"the source of a Demo must be a str, not {type(self.source).__name__}."
            )
        inputs = self.inputs if isinstance(self.inputs, str) else dict(self.inputs)
        object.__setattr__(self, "inputs", _plain("inputs", inputs))
        object.__setattr__(self, "output", _plain("output", self.output))

    @property
    def state(self) -> dict[str, JSON]:
        """It as JSON; a `DemoParameter` takes it for the demonstration."""
        source = {"source": self.source} if self.source else {}
        inputs, output = _plain("inputs", self.inputs), _plain("output", self.output)
        return {"inputs": inputs, "output": output, **source}

    @classmethod
    def of(cls, value: Any) -> "Demo":
        """Return the demonstration that a value stands for.

        Args:
            value: A `Demo`, or what its `state` gave.

        Raises:
            ParameterTypeError: If it is neither.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ParameterTypeError(
                "a demonstration must be a Demo or a dict with 'inputs' and 'output', "
                f"not {type(value).__name__}."
            )
        odd = [key for key in value if key not in _KEYS]
        if odd or not {"inputs", "output"} <= set(value):
            raise ParameterTypeError(
                "a demonstration has the keys 'inputs', 'output' and perhaps 'source'; "
                f"this one has {sorted(map(str, value))}."
            )
        return cls(**value)


class DemoParameter(Parameter):
    """Demonstrations in a prompt, chosen by an optimizer.

    Args:
        demos: Those to begin with, as `Demo` or its JSON; there may be none.
        description: What they show.
        max_tokens: How many tokens they may have, estimated at 4 characters each; None
            for any number. A demonstration that does not fit beside those before it is
            left out as a whole, from the prompt, not from the state.
        heading: What stands above their text; turns have none.
        requires_grad: Whether optimizers may change it.

    Raises:
        ParameterTypeError: If something is no demonstration.
        ParameterValueError: If `max_tokens` is below 1.

    Example:
        >>> demos = DemoParameter([Demo("2 + 2?", "4")])
        >>> print(demos)
        Examples:
        <BLANKLINE>
        Input: 2 + 2?
        Output: 4
        >>> demos.state
        [{'inputs': '2 + 2?', 'output': '4'}]
        >>> f"{DemoParameter()}What is 3 + 3?"
        'What is 3 + 3?'
    """

    is_text: ClassVar[bool] = False

    def __init__(
        self,
        demos: Iterable[Any] = (),
        description: str = "",
        *,
        max_tokens: int | None = 1000,
        heading: str = "Examples:",
        requires_grad: bool = True,
    ) -> None:
        if max_tokens is not None and (
            isinstance(max_tokens, bool)
            or not isinstance(max_tokens, int)
            or max_tokens < 1
        ):
            raise ParameterValueError(
                f"max_tokens={max_tokens!r} of a DemoParameter: give a whole number, 1 "
                "or more, or None for any number."
            )
        if not isinstance(heading, str):
            raise ParameterTypeError(
                f"the heading of a DemoParameter must be a str, not "
                f"{type(heading).__name__}; '' for none."
            )
        self.max_tokens = max_tokens
        self.heading = heading
        self._demos: tuple[Demo, ...] = ()
        given: Any = demos
        super().__init__(given, description, requires_grad=requires_grad)

    @property
    def value(self) -> str:
        """The text, "" without demonstrations. Setting it takes demonstrations."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._demos = self._checked(value)
        self._value = self._text()

    @property
    def demos(self) -> tuple[Demo, ...]:
        """The demonstrations, also those that do not fit into the text."""
        return self._demos

    @property
    def shown(self) -> tuple[Demo, ...]:
        """Those that fit into the text."""
        sizes = [len(self.render(demo)) + 2 for demo in self._demos]  # and a gap
        fitting = self._fitting(sizes, len(self.heading))
        return tuple([self._demos[place] for place in fitting])

    @property
    def state(self) -> list[dict[str, JSON]]:
        """The demonstrations as JSON."""
        return [demo.state for demo in self._demos]

    def render(self, demo: Demo) -> str:
        """Return one demonstration as the model reads it; for subclasses.

        Args:
            demo: The demonstration.
        """
        inputs = {"Input": demo.inputs} if isinstance(demo.inputs, str) else demo.inputs
        fields = [*inputs.items(), ("Output", demo.output)]
        return "\n".join([_line(name, value) for name, value in fields])

    def turns(
        self,
        template: str | None,
        fields: Mapping[str, Any],
        answers: OutputType,
        question: str,
    ) -> tuple[Message, ...]:
        """Return them as turns of a conversation, as far as they fit.

        Args:
            template: The prompt template of the call, None if it has none.
            fields: What the call gives for the fields of the template; it is taken
                where a demonstration has no such field.
            answers: The type of the answers. Text is shown as it is, all else as JSON.
            question: What the user says last. The demonstration that asks the very
                same is left out: it would tell the answer.

        Raises:
            ModuleError: If a demonstration does not fit the template.
        """
        names = [] if template is None else template_fields(template)
        turns = [
            (_asked(demo, template, names, fields), _answered(demo.output, answers))
            for demo in self._demos
        ]
        others = [turn for turn in turns if not _is_said(turn[0], question)]
        fitting = self._fitting([len(a) + len(b) for a, b in others])
        return tuple(
            [
                message
                for asked, answered in [others[place] for place in fitting]
                for message in (Message("user", asked), Message("assistant", answered))
            ]
        )

    def _fitting(self, sizes: Iterable[int], used: int = 0) -> list[int]:
        """Return the places of what fits, given how many characters each takes."""
        left = math.inf
        if self.max_tokens is not None:
            left = self.max_tokens * CHARACTERS_PER_TOKEN - used
        found = []
        for place, size in enumerate(sizes):
            if size <= left:
                left -= size
                found.append(place)
        return found

    def _text(self) -> str:
        shown = [self.render(demo) for demo in self.shown]
        heading = [self.heading] if self.heading else []
        return "\n\n".join([*heading, *shown]) if shown else ""

    def _checked(self, value: Any) -> tuple[Demo, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            raise ParameterTypeError(
                f"{self._label()} must be a list of demonstrations, not "
                f"{type(value).__name__}: give Demo(inputs, output) objects."
            )
        return tuple([Demo.of(item) for item in value])

    def _label(self) -> str:
        name = self.name
        return f"parameter {name!r}" if name else "the value of a DemoParameter"

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        count = len(self._demos)
        return f"DemoParameter({count} demo{'s' * (count != 1)}{frozen})"


def _plain(what: str, value: Any) -> JSON:
    """Return a copy of what JSON can write, as it comes back from JSON."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ParameterTypeError(
            f"the {what} of a Demo cannot be written as JSON ({type(exc).__name__}): "
            "use text, numbers, lists and dicts with text keys."
        ) from exc
    return json.loads(text)


class _Fields(dict[str, JSON]):
    """A JSON object in a template, where ``{person.name}`` reads an attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _opened(value: JSON) -> Any:
    """Return JSON with objects that have their fields as attributes, too."""
    if isinstance(value, dict):
        return _Fields({name: _opened(item) for name, item in value.items()})
    return [_opened(item) for item in value] if isinstance(value, list) else value


def _asked(
    demo: Demo, template: str | None, names: list[str], fields: Mapping[str, Any]
) -> str:
    """Return what the user says in a turn; `names` are the fields of the template."""
    inputs = demo.inputs
    if template is None:
        is_text = isinstance(inputs, str)
        return inputs if is_text else "\n".join(_line(*item) for item in inputs.items())
    if isinstance(inputs, str) and len(names) == 1:
        return filled_fields(template, {names[0]: inputs})
    if isinstance(inputs, str) or any(name not in names for name in inputs):
        what = "text" if isinstance(inputs, str) else f"the fields {sorted(inputs)}"
        raise ModuleError(
            f"a demonstration gives {what}, and the prompt template of its call has "
            f"the fields {names}: write Demo({{field: value, ...}}, answer)."
        )
    shown = {name: _opened(value) for name, value in inputs.items()}
    return filled_fields(template, {**fields, **shown})


def _answered(output: JSON, answers: OutputType) -> str:
    """Return what the model says in a turn, as it would write it."""
    if answers.is_text and isinstance(output, str):
        return output
    if answers.wrapped and not (isinstance(output, dict) and set(output) == {"value"}):
        output = {"value": output}
    return json.dumps(output, ensure_ascii=False)


def _is_said(asked: str, question: str) -> bool:
    """Say whether a question is that of a demonstration, alone or in lines of its own.

    Lines before or after it are what parameters put there.
    """
    asked, question = asked.strip(), question.strip()
    return f"\n{asked}\n" in f"\n{question}\n" and bool(asked)


def _line(name: str, value: JSON) -> str:
    """Return one field as text; a text of several lines begins on its own one."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{name}:\n{text}" if "\n" in text else f"{name}: {text}"
