"""`Draft`: what a reflector has to say, put into the form that is asked for.

Fields are filled by their names: one that sounds like thoughts gets the criticism, one
that has the name of a prompt (or of what stands before it) that prompt, a list of
edits or rules the lessons one by one, any other text the new prompt.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from benchmarks.simworld.forms import Form, is_thought

_LESSONS = re.compile(
    r"edit|rule|lesson|change|addition|operation|insert|hint|tip|fix|improvement",
    re.IGNORECASE,
)
_NAMING = re.compile(
    r"^(?:name|id|key|target|stage|component|param|parameter|node|module|variable)"
    r"(?:_(?:name|id))?$",
    re.IGNORECASE,
)
_OLD = re.compile(r"^(?:old|before|find|original|remove|anchor)", re.IGNORECASE)
_ADDING = ("add", "append", "insert", "addition", "new")


@dataclass(frozen=True, slots=True)
class Draft:
    """What there is to say.

    Args:
        prompts: Of each prompt in the request, the word before it and its stage.
        texts: Each as it should be.
        focus: Which one a single answer is about.
        lessons: What was picked up, a sentence each.
        homes: The numbers of the prompts that each of these belongs into.
        criticism: The same in words.
    """

    prompts: list[tuple[str, str]]
    texts: list[str]
    focus: int
    lessons: list[str]
    homes: list[list[int]]
    criticism: str

    def reply(self, form: Form, *, rewrite: bool) -> str:
        """Return the answer.

        Args:
            form: The form of it.
            rewrite: Whether a plain text should be the new prompt.
        """
        if form.kind == "schema":
            value = self._value(form.schema, form.schema.get("$defs", {}), "", 0, None)
            return json.dumps(value, ensure_ascii=False)
        if form.kind == "text" and not rewrite:
            return self.criticism
        names = [name for name in form.names if not is_thought(name)]
        several = len(names) > 1

        def give(name: str) -> str:
            if is_thought(name) or (name == "answer" and form.nested):
                return self.criticism
            return self._prompt(name, names.index(name) if several else self.focus)

        return form.filled(give, self._by_name)

    def _by_name(self) -> dict[str, str]:
        """The new prompts under the words that stand before the old ones."""
        return {
            name or stage: text
            for (name, stage), text in zip(self.prompts, self.texts, strict=True)
        }

    def _prompt(self, name: str, otherwise: int) -> str:
        """The new prompt that a name means, or the one at a place."""
        for (before, stage), text in zip(self.prompts, self.texts, strict=True):
            words = re.split(r"[\W_]+", name.lower())
            if stage in words or (before and before.lower() == name.lower()):
                return text
        if not self.texts:
            return "\n".join(self.lessons) or "Do the work with care."
        return self.texts[min(otherwise, len(self.texts) - 1)]

    def _value(
        self,
        schema: dict[str, Any],
        defs: dict[str, Any],
        name: str,
        place: int,
        lesson: str | None,
    ) -> Any:
        """A value for a schema; inside a list of lessons, for one of them."""
        schema = _resolved(schema, defs)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._option(schema["enum"], place)
        kind = _kind(schema)
        if kind == "object":
            return self._object(schema, defs, place, lesson)
        if kind == "array":
            return self._list(schema, defs, name, lesson)
        if kind == "string":
            return self._text(name, place, lesson)
        if kind in ("integer", "number"):
            return _number(schema, kind)
        return True if kind == "boolean" else None

    def _object(
        self,
        schema: dict[str, Any],
        defs: dict[str, Any],
        place: int,
        lesson: str | None,
    ) -> dict[str, Any]:
        """An object for a schema; the n-th text field is for the n-th prompt."""
        fields = schema.get("properties", {})
        if not fields:
            return self._by_name()
        wanted = [n for n in fields if not (is_thought(n) or _NAMING.match(n))]
        several = len(wanted) > 1 and lesson is None
        return {
            name: self._value(
                part,
                defs,
                name,
                wanted.index(name) if several and name in wanted else place,
                lesson,
            )
            for name, part in fields.items()
        }

    def _list(
        self,
        schema: dict[str, Any],
        defs: dict[str, Any],
        name: str,
        lesson: str | None,
    ) -> list[Any]:
        """A list for a schema: of lessons, of prompts, or where a lesson belongs."""
        items = schema.get("items", {"type": "string"})
        fewest, most = schema.get("minItems", 0), schema.get("maxItems", 99)
        options = _resolved(items, defs).get("enum")
        if options and lesson in self.lessons:
            homes = self.homes[self.lessons.index(lesson)]
            homes = [*homes, *[self.focus] * (fewest - len(homes))][:most]
            return [self._option(options, n) for n in homes]
        told: list[tuple[int, str | None]]
        if _LESSONS.search(name) or is_thought(name) or not self.texts:
            told = [(self.focus, lesson) for lesson in self.lessons]
        else:
            told = [(n, None) for n in range(len(self.texts))]
        told += [(self.focus, self.criticism)] * (fewest - len(told))
        return [self._value(items, defs, "", n, lesson) for n, lesson in told[:most]]

    def _option(self, options: list[Any], place: int) -> Any:
        """The option that adds, or names the prompt at a place; else the first."""
        words = [str(option).lower() for option in options]
        for word in _ADDING:
            if word in words:
                return options[words.index(word)]
        if place < len(self.prompts):
            for meant in self.prompts[place]:
                for option, word in zip(options, words, strict=True):
                    if meant and meant.lower() in re.split(r"[\W_]+", word):
                        return option
        return options[0]

    def _text(self, name: str, place: int, lesson: str | None) -> str:
        """A text for a field."""
        if _NAMING.match(name) and self.prompts:
            before, stage = self.prompts[min(place, len(self.prompts) - 1)]
            return before or stage
        if _OLD.match(name):
            return ""
        if is_thought(name) and lesson is None:
            return self.criticism
        return lesson if lesson is not None else self._prompt(name, place)


def _resolved(schema: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """A schema without references and choices: the first of each."""
    while True:
        choices = [schema[key] for key in ("anyOf", "oneOf", "allOf") if key in schema]
        if "$ref" in schema:
            schema = defs[schema["$ref"].rsplit("/", 1)[1]]
        elif choices:
            schema = choices[0][0]
        else:
            return schema


def _kind(schema: dict[str, Any]) -> str:
    """The type of a schema, the first if there are several."""
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return kind[0] if isinstance(kind, list) else kind


def _number(schema: dict[str, Any], kind: str) -> float:
    """A number for a schema: its least, or the middle of its range."""
    low, high = schema.get("minimum", 0), schema.get("maximum", 1)
    return low if kind == "integer" else (low + high) / 2
