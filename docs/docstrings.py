"""What griffe has to be told to read the docstrings of this project."""

from typing import Any

import griffe

PYDANTIC = {"BaseModel", "BaseSettings"}


class Docstrings(griffe.Extension):
    """Reads ``Example:``, and the fields of pydantic's classes as parameters."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Name the section of examples as griffe does."""
        if obj.docstring:
            lines = obj.docstring.value.splitlines()
            named = ["Examples:" if line == "Example:" else line for line in lines]
            obj.docstring.value = "\n".join(named)

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
