"""A target: ``package.module:Class``, and the module that is made of it."""

import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from inf_engine.errors import UsageError, known_names
from inf_engine.module import InferenceModule


def load_module(target: str, settings: Sequence[str] = ()) -> InferenceModule:
    """Import a target and return the module that it names.

    Args:
        target: ``package.module:Class``; instead of a class, also a function that
            returns a module, or a module object. Looked for in the working folder too.
        settings: ``key=value`` for each argument of the class. A value that is JSON is
            what it says, anything else is text.

    Raises:
        UsageError: If it cannot be found, imported or made, or is no module.
    """
    found = _found(target)
    given = _arguments(settings)
    if isinstance(found, InferenceModule):
        if given:
            raise UsageError(
                f"{target} is a module already and takes no arguments. Leave out "
                "--set, or name its class."
            )
        return found
    if not callable(found):
        raise _no_module(target, found)
    try:
        made = found(**given)
    except Exception as exc:
        raise UsageError(
            f"cannot make {target}({', '.join(given)}): {_told(exc)}. Correct it, or "
            "give its arguments with --set key=value."
        ) from exc
    if not isinstance(made, InferenceModule):
        raise _no_module(target, made)
    return made


def _found(target: str) -> Any:
    """Return what a target names."""
    name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*name.split("."), attribute]):
        raise UsageError(
            f"{target!r} names no module class: write package.module:Class."
        )
    folder = os.getcwd()
    if folder not in sys.path:  # a script of an environment does not look there
        sys.path.insert(0, folder)
    try:
        return pkgutil.resolve_name(target)
    except Exception as exc:
        if isinstance(exc, AttributeError) and name in sys.modules:
            known = _modules_in(sys.modules[name])
            raise UsageError(
                f"{name} has no {attribute!r}; {known_names(attribute, known)}."
            ) from exc
        raise UsageError(
            f"cannot import {name}: {_told(exc)}. Run from the folder that it lies "
            "in, or correct it."
        ) from exc


def _modules_in(imported: Any) -> list[str]:
    """Return the names of the module classes that a Python file defines."""
    return [
        name
        for name, value in vars(imported).items()
        if isinstance(value, type)
        and issubclass(value, InferenceModule)
        and value.__module__ == imported.__name__
    ]


def _arguments(settings: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that ``key=value`` texts stand for."""
    arguments: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.isidentifier() or key in arguments:
            raise UsageError(
                f"--set takes key=value, each key once, not {setting!r}: e.g. "
                "--set language=German --set rounds=3."
            )
        try:
            arguments[key] = json.loads(text)
        except (ValueError, RecursionError):
            arguments[key] = text
    return arguments


def _told(exc: BaseException) -> str:
    """Return an error of the user's code on one line, with its place."""
    frames = traceback.extract_tb(exc.__traceback__)
    last = frames[-1]
    own = os.path.dirname(os.path.dirname(__file__))
    known = last.filename.startswith((own, os.path.dirname(os.__file__), "<"))
    place = "" if known else f" ({last.filename} line {last.lineno})"
    line = str(exc).strip().split("\n", 1)[0].rstrip(".")
    return f"{type(exc).__name__}: {line}{place}" if line else f"{type(exc).__name__}"


def _no_module(target: str, found: Any) -> UsageError:
    return UsageError(
        f"{target} gives {type(found).__name__} and no module: name a class that "
        "derives from InferenceModule, or a function that returns a module."
    )
