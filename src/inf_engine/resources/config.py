"""What each alias is bound to: read, checked, and frozen.

A resources file is data: it names environment variables, never keys, and cannot run
code. Everything that is wrong with it is reported at once, each problem with its
place. A value that may be a key or hold one (``api_key_env``, ``base_url``) is never
repeated in a message.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from inf_engine.errors import ConfigurationError, MissingKeyError
from inf_engine.resources.checks import (
    DEFAULT_KEYS,
    DEFAULT_MODELS,
    FIELDS,
    Problem,
    bad_alias,
    endpoint_problems,
    fallback_problems,
    inherited,
    not_a,
    refusal,
    unknown_key,
)
from inf_engine.resources.prices import Price

_NO_ALIAS = (
    "binds no alias. Add a table [endpoints.<alias>] with a provider and a model; in "
    'Python, {"<alias>": {"provider": ..., "model": ...}} or {"<alias>": client}'
)


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
        requests_per_minute: The most requests in a minute, None for no known limit.
        tokens_per_minute: The most tokens in a minute, in and out together, None for
            no known limit.
        price: US dollars per million tokens, a `Price` or a table ``{input = 0.5,
            output = 1.5, cached = 0.1, cache_write = 0.6}`` (those of the cache may
            be left out); None for what is known of the model.
        fallbacks: Aliases that are tried in this order when this one has failed for
            good.
        deployments: Several places that answer for this alias: tables of the fields
            above but for ``retries``, ``hedge`` and ``fallbacks``, which belong to the
            alias.
            What a table leaves out it takes from this endpoint, whose own ``model``
            and ``base_url`` are then only defaults, and whose limits hold for each
            deployment. A table of another provider does not take ``base_url``,
            ``api_key_env``, ``context`` and ``threads``. Kept as complete
            `EndpointConfig`s; one that is given must be complete, and gets the
            ``retries`` of this endpoint.
        hedge: The share of requests, 0.05 for one in twenty, that may be sent a second
            time because they take longer than 95 in 100 did; 0 for none. See
            `inf_engine.resources.hedging`.
        images: Whether the model reads images; a request with one is not sent to a
            model that does not. A ``local`` one never does.

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
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price: Price | None = None
    fallbacks: tuple[str, ...] = ()
    deployments: tuple["EndpointConfig", ...] = ()
    hedge: float = 0.0
    images: bool = True

    def __post_init__(self) -> None:
        values = _plain({field: getattr(self, field) for field in FIELDS})
        problems = endpoint_problems(values)
        if problems:
            raise refusal("EndpointConfig", problems)
        for field, value in _normal(values).items():
            object.__setattr__(self, field, value)

    @property
    def each(self) -> "tuple[EndpointConfig, ...]":
        """The deployments; the endpoint itself where it has none.

        None of them has deployments or fallbacks.
        """
        if self.deployments:
            return self.deployments
        return (replace(self, fallbacks=()) if self.fallbacks else self,)

    @property
    def reads_images(self) -> bool:
        """Whether all of its deployments read images."""
        return all(one.images and one.provider != "local" for one in self.each)

    @property
    def deployment(self) -> tuple[str, str, str, str]:
        """What limits and the queue belong to: provider, base_url, api_key_env, model.

        Of an endpoint with deployments it says nothing: ask each of `each`.
        """
        return self.provider, self.base_url, self.api_key_env, self.model

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
                raise refusal("ResourceConfig", [("endpoints", bad_alias(alias))])
            if not isinstance(endpoint, (EndpointConfig, Mapping)):
                what = not_a("an EndpointConfig", endpoint)
                raise refusal("ResourceConfig", [(f"endpoints.{alias}", what)])
        problems = _endpoints_problems(self.endpoints)
        if problems:
            raise refusal("ResourceConfig", problems)
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
    is_told = any(not table or names & set(table) for table in tables)
    return bool(source) and (not tables or is_told)


def _from_dict(data: Any, where: str) -> ResourceConfig:
    """Build the configuration of plain data."""
    if not isinstance(data, Mapping):
        raise refusal(where, [("the whole", not_a("a table", data))])
    problems = [unknown_key(k, ("endpoints",)) for k in data if k != "endpoints"]
    endpoints = data.get("endpoints")
    problems += _endpoints_problems(endpoints)
    if problems:
        raise refusal(where, problems)
    return ResourceConfig({alias: _endpoint(e) for alias, e in endpoints.items()})


def _endpoint(data: Any) -> EndpointConfig:
    """Return the endpoint of checked data."""
    return data if isinstance(data, EndpointConfig) else EndpointConfig(**data)


def _endpoints_problems(endpoints: Any) -> list[Problem]:
    """Return what is wrong with the table of all endpoints."""
    if endpoints is None or endpoints == {}:
        return [("endpoints", _NO_ALIAS)]
    if not isinstance(endpoints, Mapping):
        return [("endpoints", not_a("a table of aliases", endpoints))]
    problems: list[Problem] = []
    for alias, data in endpoints.items():
        place = f"endpoints.{alias}"
        if not isinstance(alias, str) or not alias.strip():
            problems.append(("endpoints", bad_alias(alias)))
        elif not isinstance(data, (EndpointConfig, Mapping)):
            problems.append((place, not_a("a table", data)))
        else:
            found = _alias_problems(alias, data, endpoints)
            problems += [(f"{place}.{field}", what) for field, what in found]
    return problems


def _alias_problems(
    alias: str, data: EndpointConfig | Mapping[Any, Any], aliases: Mapping[Any, Any]
) -> list[Problem]:
    """Return what is wrong with the endpoint of an alias, among its neighbours."""
    if isinstance(data, EndpointConfig):
        return fallback_problems(alias, data.fallbacks, aliases)
    lost = fallback_problems(alias, data.get("fallbacks"), aliases)
    return endpoint_problems(_plain(data)) + lost


def _plain(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the fields of an endpoint with its deployments as tables."""
    plain = dict(values)
    given = plain.get("deployments")
    if isinstance(given, (list, tuple)):
        plain["deployments"] = type(given)(
            [_table(one) if isinstance(one, EndpointConfig) else one for one in given]
        )
    return plain


def _table(deployment: EndpointConfig) -> dict[str, Any]:
    """Return a deployment as a table that leaves nothing out."""
    table = {field: getattr(deployment, field) for field in FIELDS}
    del table["retries"], table["hedge"]
    for field in ("fallbacks", "deployments"):
        if not table[field]:
            del table[field]
    return table


def _normal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked fields in the one form in which equal endpoints are equal."""
    provider, price = values["provider"], values["price"]
    retries, deployments = values["retries"], values["deployments"]
    return {
        "model": values["model"] or DEFAULT_MODELS.get(provider, ""),
        "api_key_env": values["api_key_env"] or DEFAULT_KEYS.get(provider, ""),
        "base_url": values["base_url"].rstrip("/"),
        "timeout": float(values["timeout"]),
        "hedge": float(values["hedge"]),
        "requests_per_minute": _float(values["requests_per_minute"]),
        "tokens_per_minute": _float(values["tokens_per_minute"]),
        "price": Price.of(price) if isinstance(price, Mapping) else price,
        "fallbacks": tuple(values["fallbacks"]),
        "deployments": tuple(
            EndpointConfig(**inherited(values, table), retries=retries)
            for table in deployments
        ),
    }


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _read(path: Path) -> Any:
    """Return the data of a resources file."""
    parsers = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}
    parse = parsers.get(path.suffix.lower())
    if not path.exists():
        looked = "" if path.is_absolute() else f": looked for {path.absolute()}"
        raise ConfigurationError(
            f"{path}: there is no such resources file{looked}. Correct the path, or "
            "write the file"
        )
    if parse is None:
        raise ConfigurationError(
            f"{path}: a resources file ends in {', '.join(parsers)}; rename it"
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
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
