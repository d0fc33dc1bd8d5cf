"""What griffe has to be told to read the docstrings of this project."""

import importlib
import re
from typing import Any

import griffe

PACKAGES = ["", ".clients", ".journal", ".optimization", ".serving", ".testing"]
NAME = re.compile(r"(?<!`)`(\w+)`(?!`)")
PYDANTIC = {"BaseModel", "BaseSettings"}


class Docstrings(griffe.Extension):
    """Reads ``Example:``, links public names, knows pydantic's fields."""

    def __init__(self) -> None:
        super().__init__()
        self._public: dict[str, str] = {}
        for package in PACKAGES:
            module = importlib.import_module(f"inf_engine{package}")
            for name in module.__all__:
                home = getattr(getattr(module, name), "__module__", module.__name__)
                self._public[name] = f"{home}.{name}"

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Name the section of examples as griffe does, and link names."""
        if obj.docstring:
            text = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
            obj.docstring.value = NAME.sub(self._linked, text)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Give a class of pydantic the `__init__` that it makes at run time."""
        decorators = " ".join(str(each.value) for each in cls.decorators)
        if not PYDANTIC & set(map(str, cls.bases)) and "config=" not in decorators:
            return
        fields = [
            griffe.Parameter(
                name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=field.value,
            )
            for name, field in cls.attributes.items()
            if field.annotation and "property" not in field.labels
        ]
        myself = griffe.Parameter(
            "self", kind=griffe.ParameterKind.positional_or_keyword
        )
        made = griffe.Function(
            "__init__", parameters=griffe.Parameters(myself, *fields)
        )
        cls.set_member("__init__", made)

    def _linked(self, name: re.Match[str]) -> str:
        """Return a name in backticks as a link to its entry, if it has one."""
        place = self._public.get(name[1])
        return f"[`{name[1]}`][{place}]" if place else name[0]
