"""What each alias is bound to: read, checked, and frozen.

A resources file is data: it names environment variables, never keys, and cannot run
code. Everything that is wrong with it is reported at once, each problem with its
place. A value that may be a key or hold one (``api_key_env``, ``base_url``) is never
repeated in a message.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from inf_engine.errors import ConfigurationError, MissingKeyError, known_names

_PROVIDERS = ("openai", "anthropic", "openai-compatible", "local")
_DEFAULT_MODELS = {"local": "smollm2"}
_DEFAULT_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_LOCAL_ONLY = ("context", "threads")
_REMOTE_ONLY = ("base_url", "api_key_env")
_LONGEST_ECHO = 30
_LONGEST_TIMEOUT = 1e9

Problem: TypeAlias = tuple[str, str]  # a field, and what is wrong with it


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """One endpoint: a model, where it is, and how much may be asked of it.

    Args:
        provider: ``openai``, ``anthropic``, ``openai-compatible`` or ``local``.
        model: The provider's name of the model; for ``local`` a GGUF file or a known
            name, ``smollm2`` if left out.
        base_url: The address before ``/chat/completions``; empty for the provider's
            own. Needed by ``openai-compatible``.
        api_key_env: The name of the environment variable that holds the key; left
            out, ``OPENAI_API_KEY`` or ``ANTHROPIC_API_KEY`` for their providers and
            none for the others.
        max_concurrent: The most requests in flight, None for no limit of its own.
        timeout: Seconds for one attempt.
        retries: Tries after the first.
        context: Tokens per request that a ``local`` model keeps, None for its own.
        threads: Threads of a ``local`` model, None for as many as there are cores.

    Raises:
        ConfigurationError: If a value cannot be right.
    """

    provider: str
    model: str = ""
    base_url: str = ""
    api_key_env: str = ""
    max_concurrent: int | None = None
    timeout: float = 600.0
    retries: int = 2
    context: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        problems = _problems({f.name: getattr(self, f.name) for f in fields(self)})
        if problems:
            raise _refusal("EndpointConfig", problems)
        model = self.model or _DEFAULT_MODELS.get(self.provider, "")
        variable = self.api_key_env or _DEFAULT_KEYS.get(self.provider, "")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "api_key_env", variable)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        object.__setattr__(self, "timeout", float(self.timeout))

    def api_key(self, alias: str, environ: Mapping[str, str]) -> str | None:
        """Return the key, None if the endpoint needs none.

        Args:
            alias: The alias of the endpoint, for the message.
            environ: The environment to look in, e.g. ``os.environ``.

        Raises:
            MissingKeyError: If the variable is not set, or is empty.
        """
        if not self.api_key_env:
            return None
        key = environ.get(self.api_key_env, "").strip()
        if not key:
            raise MissingKeyError(
                f"endpoint {alias!r} ({self.provider}) needs an API key, but the "
                f"environment variable {self.api_key_env} is not set. Set it, or name "
                f"another variable with endpoints.{alias}.api_key_env"
            )
        return key


@dataclass(frozen=True, slots=True)
class ResourceConfig:
    """What each alias is bound to.

    Args:
        endpoints: The endpoint of each alias; a dict of its fields will do, and is
            kept as an `EndpointConfig`.

    Raises:
        ConfigurationError: If an alias is no text, or an endpoint no `EndpointConfig`.
    """

    endpoints: Mapping[str, Any]

    def __post_init__(self) -> None:
        for alias, endpoint in self.endpoints.items():
            if not isinstance(alias, str) or not alias.strip():
                raise _refusal("ResourceConfig", [("endpoints", _bad_alias(alias))])
            if not isinstance(endpoint, (EndpointConfig, Mapping)):
                what = _not("an EndpointConfig", endpoint)
                raise _refusal("ResourceConfig", [(f"endpoints.{alias}", what)])
        problems = _endpoints_problems(self.endpoints) if self.endpoints else []
        if problems:
            raise _refusal("ResourceConfig", problems)
        made = {alias: _endpoint(data) for alias, data in self.endpoints.items()}
        object.__setattr__(self, "endpoints", made)

    @classmethod
    def load(
        cls, source: "str | os.PathLike[str] | Mapping[str, Any] | ResourceConfig"
    ) -> "ResourceConfig":
        """Return the configuration that a source describes.

        Args:
            source: The path of a ``.toml``, ``.yaml``, ``.yml`` or ``.json`` file, or
                what such a file holds: ``{"endpoints": {alias: {...}}}``; a dict may
                leave that level out. A `ResourceConfig` is returned as is.

        Raises:
            ConfigurationError: If it cannot be read, or is wrong; every problem is
                named with its place.
        """
        if isinstance(source, ResourceConfig):
            return source
        if isinstance(source, (str, os.PathLike)):
            return _from_dict(_read(Path(source)), str(source))
        if _is_alias_table(source):
            source = {"endpoints": source}
        return _from_dict(source, "resources")


def _is_alias_table(source: Any) -> bool:
    """Whether a dict binds aliases without the level ``endpoints``."""
    if not isinstance(source, Mapping) or "endpoints" in source:
        return False
    if not all(isinstance(v, (Mapping, EndpointConfig)) for v in source.values()):
        return False
    names = {f.name for f in fields(EndpointConfig)}
    tables = [v for v in source.values() if isinstance(v, Mapping)]
    return bool(source) and (not tables or any(names & set(t) for t in tables))


def _from_dict(data: Any, where: str) -> ResourceConfig:
    """Build the configuration of plain data."""
    if not isinstance(data, Mapping):
        raise _refusal(where, [("the whole", _not("a table", data))])
    problems = [_unknown_key(k, ("endpoints",)) for k in data if k != "endpoints"]
    endpoints = data.get("endpoints")
    problems += _endpoints_problems(endpoints)
    if problems:
        raise _refusal(where, problems)
    return ResourceConfig({alias: _endpoint(e) for alias, e in endpoints.items()})


def _endpoint(data: Any) -> EndpointConfig:
    """Return the endpoint of checked data."""
    return data if isinstance(data, EndpointConfig) else EndpointConfig(**data)


def _endpoints_problems(endpoints: Any) -> list[Problem]:
    """Return what is wrong with the table of all endpoints."""
    if endpoints is None or endpoints == {}:
        return [("endpoints", "binds no alias. Add a table [endpoints.<alias>]")]
    if not isinstance(endpoints, Mapping):
        return [("endpoints", _not("a table of aliases", endpoints))]
    problems: list[Problem] = []
    for alias, data in endpoints.items():
        place = f"endpoints.{alias}"
        if not isinstance(alias, str) or not alias.strip():
            problems.append(("endpoints", _bad_alias(alias)))
        elif isinstance(data, EndpointConfig):
            continue
        elif not isinstance(data, Mapping):
            problems.append((place, _not("a table", data)))
        else:
            found = _endpoint_problems(data)
            problems += [(f"{place}.{field}", what) for field, what in found]
    return problems


def _endpoint_problems(data: Mapping[Any, Any]) -> list[Problem]:
    """Return what is wrong with the table of one endpoint."""
    names = [f.name for f in fields(EndpointConfig)]
    unknown = [_unknown_key(key, names) for key in data if key not in names]
    return unknown + _problems({k: v for k, v in data.items() if k in names})


def _problems(values: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the fields of an endpoint, those left out included."""
    problems: list[Problem] = []
    for field, value in values.items():
        what = _CHECKS[field](value)
        if what:
            problems.append((field, what))
    return problems or _mismatches(values)


def _mismatches(values: Mapping[str, Any]) -> list[Problem]:
    """Return which fields do not go together, each being right by itself."""
    provider = values.get("provider")
    if provider is None:
        return [("provider", f"is missing; {known_names('', _PROVIDERS)}")]
    problems: list[Problem] = []
    if not values.get("model") and provider not in _DEFAULT_MODELS:
        problems.append(("model", f"is missing. Name a model of provider {provider!r}"))
    if provider == "openai-compatible" and not values.get("base_url"):
        what = "is missing. Give the server's address, e.g. http://127.0.0.1:8000/v1"
        problems.append(("base_url", what))
    idle = _REMOTE_ONLY if provider == "local" else _LOCAL_ONLY
    for field in idle:
        if values.get(field) not in (None, ""):
            problems.append((field, f"means nothing to provider {provider!r}. Drop it"))
    return problems


def _provider(value: Any) -> str:
    if not isinstance(value, str):
        return _not("text", value)
    if value in _PROVIDERS:
        return ""
    shown = repr(value) if len(value) <= _LONGEST_ECHO else "this text"
    return f"{shown} is no provider; {known_names(value, _PROVIDERS)}"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else _not("text", value)


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


def _timeout(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _not("a number of seconds", value)
    in_range = 0 < value <= _LONGEST_TIMEOUT  # NaN is not
    return "" if in_range else f"has to be more than 0 seconds and finite, not {value}"


def _count(least: int) -> Callable[[Any], str]:
    """Return a check for whole numbers."""

    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return _not("a whole number", value)
        return "" if value >= least else f"has to be at least {least}, not {value}"

    return check


def _optional(check: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a check that also allows None."""
    return lambda value: "" if value is None else check(value)


_CHECKS: dict[str, Callable[[Any], str]] = {
    "provider": _provider,
    "model": _text,
    "base_url": _base_url,
    "api_key_env": _variable,
    "max_concurrent": _optional(_count(1)),
    "timeout": _timeout,
    "retries": _count(0),
    "context": _optional(_count(1)),
    "threads": _optional(_count(1)),
}


def _unknown_key(key: Any, known: Sequence[str]) -> Problem:
    name = str(key)[:_LONGEST_ECHO]
    return name, f"is no known key; {known_names(name, known)}"


def _bad_alias(alias: Any) -> str:
    return f"has an alias that is {_kind(alias)}. Name each with text; quote numbers"


def _not(wanted: str, value: Any) -> str:
    return f"has to be {wanted}, not {_kind(value)}"


def _kind(value: Any) -> str:
    """Return what a value is, without saying what is in it."""
    if value == "":
        return "empty"
    names = {bool: "true/false", str: "text", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _refusal(where: str, problems: list[Problem]) -> ConfigurationError:
    """Return the error that names every problem with its place."""
    lines = [f"{place}: {what}" for place, what in problems]
    if len(lines) == 1:
        return ConfigurationError(f"{where}: {lines[0]}")
    listed = "".join(f"\n  {line}" for line in lines)
    return ConfigurationError(f"{where}: {len(lines)} problems{listed}")


def _read(path: Path) -> Any:
    """Return the data of a resources file."""
    parsers = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise ConfigurationError(
            f"{path}: a resources file ends in {', '.join(parsers)}; rename it"
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"{path}: there is no such resources file (in {Path.cwd()}). "
            f"Correct the path, or give a dict"
        ) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"{path}: cannot be read ({exc.strerror}). Correct the path or its rights"
        ) from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"{path}: is not UTF-8 text. Save it as UTF-8"
        ) from exc
    except _SyntaxFault as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc.__cause__


class _SyntaxFault(Exception):
    """The text of a resources file is not the language that its name says."""


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _SyntaxFault(f"is not TOML: {exc}. Correct this line") from exc


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _SyntaxFault(f"is not JSON: {exc}. Correct this line") from exc


def _yaml(text: str) -> Any:
    """Parse YAML; only the place of a fault is told, for PyYAML quotes the file."""
    try:
        import yaml  # noqa: PLC0415
    except ImportError as exc:
        raise _SyntaxFault(
            "reading YAML needs PyYAML: pip install 'inf-engine[yaml]'"
        ) from exc
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(exc, "problem", None) or type(exc).__name__
        raise _SyntaxFault(f"is not plain YAML{line}: {reason}. Correct it") from None
