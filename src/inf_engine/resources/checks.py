"""What may stand in a resources file: every field's check, and what goes together.

Nothing is read, changed or raised here. A check looks at plain data and says what is
wrong with it, as a list of problems: each a place and a sentence. So all the mistakes
of a file can be told at once, and a deployment, a table of its own, is checked as what
it will be: its own fields over those of its endpoint.

A value that may be a key or hold one (``api_key_env``, ``base_url``) is never repeated.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from inf_engine.errors import ConfigurationError, known_names
from inf_engine.resources.prices import Price

PROVIDERS = ("openai", "anthropic", "openai-compatible", "local")
DEFAULT_MODELS = {"local": "smollm2"}
DEFAULT_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_LOCAL_ONLY = ("context", "threads")
_REMOTE_ONLY = ("base_url", "api_key_env")
_OF_ALIAS = ("retries", "hedge", "fallbacks", "deployments")
_LONGEST_ECHO = 30
_LONGEST_TIMEOUT = 1e9
_LONGEST_NUMBER = 10**15

Problem: TypeAlias = tuple[str, str]  # a place, and what is wrong there


def endpoint_problems(values: Mapping[Any, Any]) -> list[Problem]:
    """Return what is wrong with the table of one endpoint.

    Args:
        values: Its fields, those left out missing; its deployments are tables.

    Returns:
        Each place (``model``, ``deployments[1].model``) and what is wrong there.
    """
    unknown = [unknown_key(key, FIELDS) for key in values if key not in FIELDS]
    known = {key: value for key, value in values.items() if key in FIELDS}
    problems = _field_problems(known) or _mismatches(known)
    defaults = None if problems else known
    tables = known.get("deployments", ())
    for index, table in enumerate(tables if _is_list(tables) else ()):
        place = f"deployments[{index}]"
        for field, what in _deployment_problems(table, defaults):
            problems.append((f"{place}.{field}" if field else place, what))
    return unknown + problems


def fallback_problems(
    alias: str, fallbacks: Any, aliases: Iterable[Any]
) -> list[Problem]:
    """Return which fallbacks of an alias lead nowhere.

    Circles between aliases are allowed: a request tries each alias once.

    Args:
        alias: The alias.
        fallbacks: Its fallbacks; what `endpoint_problems` refuses is passed over.
        aliases: All that are bound.

    Returns:
        Each place (``fallbacks[0]``) and what is wrong there.
    """
    others = [a for a in aliases if isinstance(a, str) and a.strip() and a != alias]
    problems: list[Problem] = []
    for index, name in enumerate(fallbacks if _is_list(fallbacks) else ()):
        place = f"fallbacks[{index}]"
        if not isinstance(name, str) or not name.strip() or name in others:
            continue
        if name == alias:
            what = f"is this alias itself; {known_names('', others)}. Name another"
        else:
            known = known_names(name[:_LONGEST_ECHO], others)
            what = f"{_echo(name)} is not bound; {known}. Bind it, or correct the name"
        problems.append((place, what))
    return problems


def inherited(
    endpoint: Mapping[str, Any], deployment: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all fields of a deployment: its own, else those of its endpoint.

    A deployment of another provider does not take over what only makes sense to one
    provider: the address, the key (which would go to a stranger), context, threads.

    Args:
        endpoint: The fields of the endpoint.
        deployment: The fields that the deployment names.
    """
    provider = endpoint.get("provider")
    left = _OF_ALIAS
    if deployment.get("provider", provider) != provider:
        left += _REMOTE_ONLY + _LOCAL_ONLY
    taken = {key: value for key, value in endpoint.items() if key not in left}
    return {**taken, **deployment}


def unknown_key(key: Any, known: Iterable[str]) -> Problem:
    """Return the problem of a key that means nothing here."""
    name = str(key)[:_LONGEST_ECHO]
    return name, f"is no known key; {known_names(name, known)}"


def bad_alias(alias: Any) -> str:
    """Return what is wrong with an alias that is no text, or blank."""
    return f"has an alias that is {_kind(alias)}. Name each with text; quote numbers"


def not_a(wanted: str, value: Any) -> str:
    """Return that a value should be something else, without what is in it."""
    return f"has to be {wanted}, not {_kind(value)}"


def refusal(where: str, problems: list[Problem]) -> ConfigurationError:
    """Return the error that names every problem with its place."""
    lines = [f"{place}: {what}" for place, what in problems]
    if len(lines) == 1:
        return ConfigurationError(f"{where}: {lines[0]}")
    listed = "".join(f"\n  {line}" for line in lines)
    return ConfigurationError(f"{where}: {len(lines)} problems{listed}")


def _deployment_problems(table: Any, endpoint: Mapping | None) -> list[Problem]:
    """Return what is wrong with a deployment; with an endpoint of None, by itself."""
    if not isinstance(table, Mapping):
        return [("", not_a("a table", table))]
    problems: list[Problem] = []
    for key in table:
        if key in _OF_ALIAS:
            what = "belongs to the alias, not to one deployment. Move it one up"
            problems.append((key, what))
        elif key not in _DEPLOYMENT:
            problems.append(unknown_key(key, _DEPLOYMENT))
    own = {key: value for key, value in table.items() if key in _DEPLOYMENT}
    wrong = _field_problems(own)
    if not wrong and endpoint is not None:
        wrong = _mismatches(inherited(endpoint, own))
    return problems + wrong


def _field_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Return which fields are wrong by themselves."""
    problems: list[Problem] = []
    for field, value in values.items():
        what = _CHECKS[field](value)
        if what:
            problems.append((field, what))
        elif field == "fallbacks":
            problems += _item_problems(value)
    return problems


def _item_problems(fallbacks: list[Any] | tuple[Any, ...]) -> list[Problem]:
    """Return which items of a list of fallbacks are no aliases, or there twice."""
    problems: list[Problem] = []
    for index, name in enumerate(fallbacks):
        what = ""
        if not isinstance(name, str):
            what = not_a("an alias", name)
        elif not name.strip():
            what = "is blank. Name an alias, or drop it"
        elif name in fallbacks[:index]:
            what = f"{_echo(name)} is repeated. An alias is tried once; drop it"
        if what:
            problems.append((f"fallbacks[{index}]", what))
    return problems


def _mismatches(values: Mapping[str, Any]) -> list[Problem]:
    """Return which fields do not go together, each being right by itself."""
    provider = values.get("provider")
    if provider is None:
        return [("provider", f"is missing; {known_names('', PROVIDERS)}")]
    problems: list[Problem] = []
    if not values.get("deployments"):  # else each of them is asked
        problems += _missing(provider, values)
    idle = _REMOTE_ONLY if provider == "local" else _LOCAL_ONLY
    for field in idle:
        if values.get(field) not in (None, ""):
            problems.append((field, f"means nothing to provider {provider!r}. Drop it"))
    return problems


def _missing(provider: str, values: Mapping[str, Any]) -> list[Problem]:
    """Return which fields no request can do without."""
    problems: list[Problem] = []
    if not values.get("model") and provider not in DEFAULT_MODELS:
        problems.append(("model", f"is missing. Name a model of provider {provider!r}"))
    if provider == "openai-compatible" and not values.get("base_url"):
        what = "is missing. Give the server's address, e.g. http://127.0.0.1:8000/v1"
        problems.append(("base_url", what))
    return problems


def _provider(value: Any) -> str:
    if not isinstance(value, str):
        return not_a("text", value)
    if value in PROVIDERS:
        return ""
    return f"{_echo(value)} is no provider; {known_names(value, PROVIDERS)}"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else not_a("text", value)


def _base_url(value: Any) -> str:
    """Check an address without repeating it: it may hold a password."""
    if not isinstance(value, str) or not value:
        return _text(value)
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in ("http", "https") or re.search(r"\s", value):
        return "has to be an address like http://127.0.0.1:8000/v1 or https://host/v1"
    if parts.username is not None or parts.query or parts.fragment:
        return "must hold no user, password, query or '#'. Keys go by api_key_env"
    return ""


def _variable(value: Any) -> str:
    """Check the name of a variable without repeating it: it may be a key."""
    if not isinstance(value, str) or not value:
        return _text(value)
    if _VARIABLE.fullmatch(value):
        return ""
    return (
        "has to be the name of an environment variable (A-Z, 0-9, '_'), e.g. "
        "OPENAI_API_KEY, never the key itself. If this was a key, take it out of the "
        "file, set it in the environment, and give the variable's name here"
    )


def _positive(what: str, most: float = sys.float_info.max) -> Callable[[Any], str]:
    """Return a check for finite numbers above zero."""

    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return not_a(f"a number of {what}", value)
        if 0 < value <= most:  # NaN is not
            return ""
        return f"has to be more than 0 {what} and finite, not {_number(value)}"

    return check


def _switch(value: Any) -> str:
    return "" if isinstance(value, bool) else not_a("true or false", value)


def _share(value: Any) -> str:
    """Check a part of all requests."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return not_a("a share of requests, e.g. 0.05 for one in twenty", value)
    if 0 <= value <= 1:  # NaN is not
        return ""
    return f"has to be a share from 0 (none) to 1, not {_number(value)}"


def _count(least: int) -> Callable[[Any], str]:
    """Return a check for whole numbers."""

    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return not_a("a whole number", value)
        if value >= least:
            return ""
        return f"has to be at least {least}, not {_number(value)}"

    return check


def _price(value: Any) -> str:
    if isinstance(value, Price):
        return ""
    if not isinstance(value, Mapping):
        return not_a("a table like {input = 0.5, output = 1.5}", value)
    try:
        Price.of(value)
    except ConfigurationError as exc:
        return str(exc).removeprefix("price: ")
    return ""


def _fallbacks(value: Any) -> str:
    if _is_list(value):
        return ""
    return f'{not_a("a list of aliases", value)}, e.g. fallbacks = ["smart"]'


def _deployments(value: Any) -> str:
    """Check a list of places; none at all, ``()``, is what is left out."""
    if value == []:
        return (
            "is empty, so nothing would answer. Leave it out where the endpoint itself "
            "answers, or add a table [[endpoints.<alias>.deployments]] for each place"
        )
    return "" if _is_list(value) else not_a("a list of tables", value)


def _optional(check: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a check that also allows None."""
    return lambda value: "" if value is None else check(value)


_CHECKS: dict[str, Callable[[Any], str]] = {
    "provider": _provider,
    "model": _text,
    "base_url": _base_url,
    "api_key_env": _variable,
    "max_concurrent": _optional(_count(1)),
    "timeout": _positive("seconds", _LONGEST_TIMEOUT),
    "retries": _count(0),
    "context": _optional(_count(1)),
    "threads": _optional(_count(1)),
    "requests_per_minute": _optional(_positive("requests")),
    "tokens_per_minute": _optional(_positive("tokens")),
    "price": _optional(_price),
    "fallbacks": _fallbacks,
    "deployments": _deployments,
    "hedge": _share,
    "images": _switch,
}

FIELDS = tuple(_CHECKS)
_DEPLOYMENT = tuple(field for field in FIELDS if field not in _OF_ALIAS)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _echo(value: str) -> str:
    """Return a text for a message, unless it is long enough to be a key."""
    return repr(value) if len(value) <= _LONGEST_ECHO else "this text"


def _number(value: float) -> str:
    """Return a number for a message; Python refuses to print the very long."""
    is_long = isinstance(value, int) and abs(value) > _LONGEST_NUMBER
    return "a number so long" if is_long else str(value)


def _kind(value: Any) -> str:
    """Return what a value is, without saying what is in it."""
    if value == "":
        return "empty"
    names = {bool: "true/false", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)
