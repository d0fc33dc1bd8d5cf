"""`ExampleReader`: how an example becomes the arguments of ``forward``.

An example is anything: a dataclass, a dict, a pydantic model, a pair, a plain value.
The rule, for a forward with the parameters ``question`` and ``context``:

- a tuple is a pair ``(inputs, target)``. Its inputs are read by the two rules below,
  and a tuple of inputs gives them by position: ``(("why?", "because"), "yes")``;
- an example with fields (a mapping, dataclass, pydantic model, named tuple or attrs
  class) gives each parameter the field of the same name. The fields that are no
  parameter, such as ``answer``, are left to the loss, which gets the whole example as
  its target, or one field of it if the reader is told which. In the mapping of a pair
  such a field is an error: there it can only be a misspelled parameter;
- everything else, a list too, is the only argument.

An example with fields of which none is a parameter is the only argument as a whole
where forward takes it: its annotation names the type of the example (or ``Any``,
``object``, a mapping for a mapping), or it has none and nothing speaks for one field:
none is the target, none is spelled nearly like the parameter, and there is not just one
text. Everywhere else it is an error: what the model is not to see, the answer above
all, would stand in the prompt.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, is_typeddict

from inf_engine.errors import UsageError, known_names

_Kind = inspect.Parameter


@dataclasses.dataclass(frozen=True, slots=True)
class ExampleCall:
    """An example as a call of ``forward``.

    Args:
        args: The arguments by position, defaults filled in: equally many for all
            examples, as `Engine.map` takes them.
        kwargs: Those that forward takes by keyword only.
        target: What the loss gets to compare the output with.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


class ExampleReader:
    """Reads examples as calls of one ``forward`` (see the top of this file).

    Args:
        signature: What forward takes: ``inspect.signature(module.forward)``.
        target: The field that is the target; empty for the whole example. A pair has
            its own.

    Raises:
        UsageError: If forward has a parameter of that name: it would see the target.

    Example:
        >>> def forward(question, style="brief"): ...
        >>> reader = ExampleReader(inspect.signature(forward), target="answer")
        >>> reader.read({"question": "2 + 2?", "answer": "4"})
        ExampleCall(args=('2 + 2?', 'brief'), kwargs={}, target='4')
        >>> reader.read(("2 + 2?", "4"))
        ExampleCall(args=('2 + 2?', 'brief'), kwargs={}, target='4')
    """

    def __init__(self, signature: inspect.Signature, *, target: str = "") -> None:
        self._signature = signature
        self._target = target
        various = (_Kind.VAR_POSITIONAL, _Kind.VAR_KEYWORD)
        self._named = [
            p for p in signature.parameters.values() if p.kind not in various
        ]
        self._names = [p.name for p in self._named]
        if target and target in self._names:
            raise UsageError(
                f"{target!r} is the target and a parameter of forward too: the module "
                "would see the answer. Rename one of them."
            )

    def read(self, example: Any, place: int | None = None) -> ExampleCall:
        """Return the call that an example stands for.

        Args:
            example: The example.
            place: Its place in the data, for messages.

        Raises:
            UsageError: If it does not fit; the message names fields and parameters,
                never what is in them.
        """
        which = "the example" if place is None else f"example {place}"
        if type(example) is tuple:
            if len(example) != 2:
                raise UsageError(
                    f"{which} is a tuple of {len(example)}: a tuple is a pair (inputs, "
                    "target). Give several inputs as ((first, second), target), or "
                    "by name in a dict."
                )
            inputs, target = example
            return self._call(inputs, target, which, in_pair=True)
        fields = fields_of(example)
        target = None if fields is None else self._target_of(example, fields, which)
        return self._call(example, target, which, in_pair=False)

    def _target_of(self, example: Any, fields: dict[str, Any], which: str) -> Any:
        if not self._target:
            return example
        if self._target not in fields:
            raise UsageError(
                f"{which} has no field {self._target!r}, which is to be its target; "
                f"{_known(self._target, fields)}. Name another field, or add it."
            )
        return fields[self._target]

    def _call(
        self, inputs: Any, target: Any, which: str, *, in_pair: bool
    ) -> ExampleCall:
        args, kwargs = self._arguments(inputs, which, in_pair)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            takes = str(self._signature).split(" ->")[0]
            raise UsageError(
                f"{which} does not fit forward{takes}: {exc}. "
                + (_PAIR if in_pair else _FIELDS)
            ) from exc
        bound.apply_defaults()
        return ExampleCall(bound.args, bound.kwargs, target)

    def _arguments(
        self, inputs: Any, which: str, in_pair: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what an example gives by position and by keyword."""
        if type(inputs) is tuple:
            return inputs, {}
        fields = fields_of(inputs)
        if fields is None:
            return (inputs,), {}
        if not any(name in fields for name in self._names):
            if self._takes_whole(inputs, fields):
                return (inputs,), {}
        elif in_pair and isinstance(inputs, Mapping):
            self._check_known(fields, which)
        self._check_complete(fields, which)
        given = [p for p in self._named if p.name in fields]
        by_place = [p for p in given if p.kind is _Kind.POSITIONAL_ONLY]
        return (
            tuple(fields[p.name] for p in by_place),
            {p.name: fields[p.name] for p in given if p not in by_place},
        )

    def _takes_whole(self, inputs: Any, fields: dict[str, Any]) -> bool:
        """Say whether an example of other fields can be the only argument."""
        first = next(iter(self._signature.parameters.values()), None)
        if first is None or first.kind in (_Kind.KEYWORD_ONLY, _Kind.VAR_KEYWORD):
            return False
        annotation = first.annotation
        if annotation is not _Kind.empty and not isinstance(annotation, str):
            return _names_type(annotation, inputs)
        if first.kind is _Kind.VAR_POSITIONAL:
            return True
        near = get_close_matches(first.name, list(map(str, fields)), n=1, cutoff=0.75)
        return not (near or self._target in fields or self._only_text(fields))

    def _check_known(self, fields: dict[str, Any], which: str) -> None:
        for name in fields:
            if name not in self._names:
                raise UsageError(
                    f"the field {_cut(name)} of the inputs of {which} is no parameter "
                    f"of forward; {known_names(str(name), self._names)}. Correct the "
                    "name, or leave the field out."
                )

    def _check_complete(self, fields: dict[str, Any], which: str) -> None:
        for p in self._named:
            if p.default is _Kind.empty and p.name not in fields:
                raise UsageError(
                    f"{which} has no field {p.name!r}, which forward needs; "
                    f"{_known(p.name, fields)}{self._hint(p, fields)}. Rename the "
                    "field or the parameter, or give pairs (inputs, target)."
                )
        if not any(name in fields for name in self._names):
            raise UsageError(
                f"{which} has no field that is a parameter of forward, which takes "
                f"{', '.join(self._names) or 'none by name'}; {_known('', fields)}. "
                "Rename the fields or the parameters, or give pairs (inputs, target)."
            )

    def _only_text(self, fields: dict[str, Any]) -> str:
        """Return the name of the only field with text, the target apart, or ""."""
        given = {name: fields[name] for name in fields if name != self._target}
        texts = [name for name, value in given.items() if isinstance(value, str)]
        return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else ""

    def _hint(self, parameter: inspect.Parameter, fields: dict[str, Any]) -> str:
        """Return where the text of an example is, if forward takes one argument."""
        text = self._only_text(fields)
        if len(self._named) > 1 or not text:
            return ""
        whole = ""
        if parameter.annotation is _Kind.empty:
            name = parameter.name
            whole = f"; to get the whole example, annotate {name!r} with a type"
        return f"; its only text is the field {_cut(text)}{whole}"


_PAIR = "A tuple is a pair (inputs, target), and inputs may be a tuple or a dict"
_FIELDS = "Give several inputs by name in a dict, or as a pair (inputs, target)"


def fields_of(example: Any) -> dict[str, Any] | None:
    """Return the fields of an example by name, None if it has none.

    Args:
        example: A mapping, dataclass, pydantic model, named tuple or attrs object has.
    """
    if isinstance(example, Mapping):
        return dict(example)
    kind = type(example)
    if issubclass(kind, type):
        return None
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__pydantic_fields__"):
        names = list(kind.__pydantic_fields__)
    elif hasattr(kind, "__attrs_attrs__"):
        names = [attribute.name for attribute in kind.__attrs_attrs__]
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = list(kind._fields)
    else:
        return None
    return {name: getattr(example, name) for name in names if hasattr(example, name)}


def _names_type(annotation: Any, value: Any) -> bool:
    """Say whether an annotation names the type of an example with fields."""
    if annotation is Any or annotation is object:
        return True
    if is_typeddict(annotation):
        return isinstance(value, Mapping)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _names_type(get_args(annotation)[0], value)
    if origin in (Union, UnionType):
        return any(_names_type(kind, value) for kind in get_args(annotation))
    kind = origin or annotation
    try:
        return isinstance(kind, type) and isinstance(value, kind)
    except TypeError:  # a protocol that cannot be asked
        return False


def _known(name: str, fields: dict[str, Any]) -> str:
    """Return the part of a message that lists the fields of an example."""
    shown = [key for key in fields if isinstance(key, str) and _cut(key) == repr(key)]
    return f"fields {known_names(name, shown)}"


def _cut(name: Any) -> str:
    """Return the name of a field as a message may show it."""
    plain = isinstance(name, str) and name.isidentifier() and len(name) <= 40
    return repr(name) if plain else "of an odd name"
