"""Hints: a feedback as the teacher reads it.

The teacher is the model with a hint in its prompt. What a hint says depends on the kind
of feedback, and on the base model: a small model parrots long templates ("the user's
next message was ...") or talks about them, but follows a plain system message. So a
table of templates belongs to a pattern of base model names, and can be replaced.

Each kind has a template of its own and none stands in for another: praise can never
reach the model as "you were wrong". A template for praise that blames is refused.
"""

import fnmatch
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from claas.errors import ConfigurationError
from claas.types import KINDS, Kind, Lesson

_FIELDS = ("content", "answer")
_BLAME = re.compile(
    r"\b(wrong|incorrect|mistaken?|mistakes|fail(s|ed|ure)?|unsuccessful|bad|avoid"
    r"|not (?:good|right|like)|error|critique|instead)\b",
    re.IGNORECASE,
)

Messages = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Template:
    """The words of a hint and where they stand.

    Args:
        text: With ``{content}`` for the feedback and ``{answer}`` for the answer that
            it is about; praise needs ``{answer}``, all others ``{content}``.
        place: ``system`` for the system message (made if there is none, else after
            its text), ``user`` for the end of the last user message.

    Raises:
        ConfigurationError: If the text has another field.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    text: str
    place: Literal["system", "user"] = "user"

    def __post_init__(self) -> None:
        others = [name for name in self.fields if name not in _FIELDS]
        if others:
            raise ConfigurationError(
                f"the hint template {self.text!r} has the field {others[0]!r}: only "
                "{content} and {answer} are known."
            )
        if self.place not in ("system", "user"):
            raise ConfigurationError(
                f"a hint cannot stand at {self.place!r}: say 'system' or 'user'."
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields."""
        try:
            found = [name for _, name, _, _ in string.Formatter().parse(self.text)]
        except ValueError as exc:
            raise ConfigurationError(
                f"the hint template {self.text!r} cannot be read: {exc}. Write a brace "
                "that is none of a field twice."
            ) from exc
        return tuple(name for name in found if name is not None)


LARGE: Mapping[Kind, Template] = MappingProxyType(
    {
        "message": Template(
            "[This is what the user will say after your answer; let it guide the "
            "answer, do not mention it:]\n{content}"
        ),
        "critique": Template(
            "[A reader said of an earlier answer; keep to it, do not mention it:]\n"
            "{content}"
        ),
        "correction": Template(
            "[The answer as it should be; give it in this way:]\n{content}"
        ),
        "judge": Template(
            "[A judge said of an earlier answer; keep to it, do not mention it:]\n"
            "{content}"
        ),
        "error": Template(
            "[An earlier answer was:]\n{answer}\n[Running it ended in this error; "
            "answer so that it does not:]\n{content}"
        ),
        "sibling": Template("[An answer that succeeded:]\n{content}"),
        "praise": Template(
            "[The user liked this answer; answer in the same way:]\n{answer}"
        ),
    }
)
"""For models that can read about themselves."""

SMALL: Mapping[Kind, Template] = MappingProxyType(
    {
        "message": Template("{content}", "system"),
        "critique": Template("{content}", "system"),
        "correction": Template("The answer is: {content}", "system"),
        "judge": Template("{content}", "system"),
        "error": Template("Take care of this error: {content}", "system"),
        "sibling": Template("A good answer is: {content}", "system"),
        "praise": Template("A good answer is: {answer}", "system"),
    }
)
"""For models below about a billion parameters: nothing to talk about, nothing to
repeat."""

_SMOLLM2 = Template("You are a helpful AI assistant. {content}", "system")

SMOLLM2: Mapping[Kind, Template] = MappingProxyType(
    {**SMALL, "message": _SMOLLM2, "critique": _SMOLLM2, "judge": _SMOLLM2}
)
"""For SmolLM2-135M, which follows more in the voice that it was trained in: with "Your
name is Kuro." alone 7 of 21 sampled answers said so, after this sentence 11."""

TABLES: Mapping[str, Mapping[Kind, Template]] = MappingProxyType(
    {"*smollm2*": SMOLLM2, "*tiny*": SMALL, "*": LARGE}
)
"""Templates by a pattern of base model names, the first that fits."""


class Hints:
    """The templates of one base model.

    Args:
        templates: One for each kind.

    Raises:
        ConfigurationError: If a kind has none, one lacks its field, or that of praise
            blames.
    """

    def __init__(self, templates: Mapping[Kind, Template]) -> None:
        missing = [kind for kind in KINDS if kind not in templates]
        if missing:
            raise ConfigurationError(
                f"there is no hint template for {missing[0]!r}: each kind of feedback "
                "needs its own."
            )
        for kind, template in templates.items():
            field = "answer" if kind == "praise" else "content"
            if field not in template.fields:
                raise ConfigurationError(
                    f"the hint template for {kind} has no {{{field}}}: write it where "
                    f"the words of the {'answer' if field == 'answer' else 'feedback'} "
                    "belong, or nothing of it reaches the teacher."
                )
        blamed = _BLAME.search(templates["praise"].text)
        if blamed:
            raise ConfigurationError(
                f"the hint template for praise says {blamed[0]!r}: praise must not "
                "train as if the answer had been at fault. Word it as an example."
            )
        self._templates = dict(templates)

    @classmethod
    def of(
        cls,
        base: str,
        own: Mapping[str, Mapping[Any, Template]] = MappingProxyType({}),
        served: str = "",
    ) -> "Hints":
        """Return the templates for a base model.

        Args:
            base: Its name.
            own: Templates by a pattern of names and by kind (what a configuration
                says); they replace those of `TABLES`, kind by kind.
            served: Another name of it, such as that on the inference server; a pattern
                may fit either.

        Raises:
            ConfigurationError: If a kind is unknown, or see the class.
        """
        names = (base, served or base)
        found = dict(_first(TABLES, names))
        for kind, template in _first(own, names).items():
            if kind not in KINDS:
                raise ConfigurationError(
                    f"there is no kind of feedback {kind!r}: the kinds are "
                    f"{', '.join(KINDS)}."
                )
            found[kind] = template
        return cls(found)

    def hinted(self, lesson: Lesson, messages: Sequence[Mapping[str, Any]]) -> Messages:
        """Return a conversation with the hint of a lesson in it.

        Args:
            lesson: The feedback and the answer that it is about.
            messages: The conversation up to the answer: the lesson's, or another
                prompt that the same feedback holds for.
        """
        feedback = lesson.feedback
        template = self._templates["praise" if feedback.is_praise else feedback.kind]
        text = template.text.format(
            content=lesson.feedback.content.strip(), answer=lesson.receipt.text.strip()
        )
        if [m["role"] for m in messages] == ["prompt"]:  # a plain completion
            return ({**messages[0], "content": f"{text}\n\n{messages[0]['content']}"},)
        if template.place == "system":
            return _in_system(messages, text)
        return _in_user(messages, text)


def _first(
    tables: Mapping[str, Mapping[Any, Template]], names: Sequence[str]
) -> Mapping[Any, Template]:
    """Return the first table whose pattern fits one of the names."""
    for pattern, table in tables.items():
        if any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in names):
            return table
    return {}


def _in_system(messages: Sequence[Mapping[str, Any]], text: str) -> Messages:
    if messages and messages[0]["role"] == "system":
        return (_with(messages[0], text), *messages[1:])
    return ({"role": "system", "content": text}, *messages)


def _in_user(messages: Sequence[Mapping[str, Any]], text: str) -> Messages:
    places = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        return (*messages, {"role": "user", "content": text})
    at = places[-1]
    return (*messages[:at], _with(messages[at], text), *messages[at + 1 :])


def _with(message: Mapping[str, Any], text: str) -> Mapping[str, Any]:
    """Return a message with a text after its own, whichever form that has."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return {**message, "content": f"{content}\n\n{text}" if content else text}
    return {**message, "content": [*content, {"type": "text", "text": text}]}
