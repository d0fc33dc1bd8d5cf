"""Endpoints of several deployments, with limits, prices and fallbacks."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from inf_engine.errors import ConfigurationError
from inf_engine.resources.checks import FIELDS
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.prices import Price

URL = "http://127.0.0.1:8000/v1"
OTHER = "http://127.0.0.1:9000/v1"

DESIGN = """
[endpoints.fast]                     # the alias; everything but provider and model
provider = "openai-compatible"       # openai | anthropic | openai-compatible | local
model = "qwen3-8b"
base_url = "http://127.0.0.1:8000/v1"   # POST {base_url}/chat/completions
api_key_env = "FAST_API_KEY"         # the name of a variable, never a key
max_concurrent = 64
requests_per_minute = 1200
tokens_per_minute = 200_000
fallbacks = ["smart"]
# several deployments of one alias: [[endpoints.fast.deployments]], each with ...
"""

TOML = """
[endpoints.fast]
provider = "openai-compatible"
api_key_env = "FAST_API_KEY"
max_concurrent = 8
requests_per_minute = 600
price = {input = 0.5, output = 1.5, cached = 0.1}
retries = 5
fallbacks = ["smart"]

[[endpoints.fast.deployments]]
model = "qwen3-8b"
base_url = "http://127.0.0.1:8000/v1/"

[[endpoints.fast.deployments]]
provider = "openai"
model = "gpt"
max_concurrent = 2
tokens_per_minute = 5e4
price = {input = 2, output = 4}
timeout = 30

[endpoints.smart]
provider = "anthropic"
model = "claude"
fallbacks = ["fast"]
"""

YAML = """
endpoints:
  fast:
    provider: openai-compatible
    api_key_env: FAST_API_KEY
    max_concurrent: 8
    requests_per_minute: 600.0
    price: {input: 0.5, output: 1.5, cached: 0.1}
    retries: 5
    fallbacks: [smart]
    deployments:
      - {model: qwen3-8b, base_url: "http://127.0.0.1:8000/v1"}
      - provider: openai
        model: gpt
        max_concurrent: 2
        tokens_per_minute: 50000
        price: {input: 2, output: 4}
        timeout: 30
  smart: {provider: anthropic, model: claude, fallbacks: [fast]}
"""

TABLES: dict[str, Any] = {
    "fast": {
        "provider": "openai-compatible",
        "api_key_env": "FAST_API_KEY",
        "max_concurrent": 8,
        "requests_per_minute": 600,
        "price": {"input": 0.5, "output": 1.5, "cached": 0.1},
        "retries": 5,
        "fallbacks": ["smart"],
        "deployments": [
            {"model": "qwen3-8b", "base_url": URL},
            {
                "provider": "openai",
                "model": "gpt",
                "max_concurrent": 2,
                "tokens_per_minute": 50_000,
                "price": {"input": 2, "output": 4},
                "timeout": 30,
            },
        ],
    },
    "smart": {"provider": "anthropic", "model": "claude", "fallbacks": ["fast"]},
}

CLAUDE = EndpointConfig("anthropic", "claude")
PRICE = Price(0.5, 1.5, 0.1)
HERE = EndpointConfig(
    *("openai-compatible", "qwen3-8b", URL, "FAST_API_KEY", 8),
    retries=5,
    requests_per_minute=600,
    price=PRICE,
)
THERE = EndpointConfig(
    *("openai", "gpt", "", "", 2, 30.0),
    retries=5,
    requests_per_minute=600,
    tokens_per_minute=50_000,
    price=Price(2, 4),
)
BOTH = ResourceConfig(
    {
        "fast": EndpointConfig(
            "openai-compatible",
            api_key_env="FAST_API_KEY",
            max_concurrent=8,
            requests_per_minute=600,
            price=PRICE,
            retries=5,
            fallbacks=("smart",),
            deployments=(HERE, THERE),
        ),
        "smart": EndpointConfig("anthropic", "claude", fallbacks=("fast",)),
    }
)


def endpoint(**fields: Any) -> EndpointConfig:
    """Return an endpoint that is right but for these fields."""
    table: dict[str, Any] = {"provider": "openai", "model": "m", **fields}
    return EndpointConfig(**table)


def refused(endpoints: dict[Any, Any], match: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError, match=match) as caught:
        ResourceConfig.load({"endpoints": endpoints})
    return caught.value


class TestSources:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.toml", TOML),
            ("a.yaml", YAML),
            ("a.json", json.dumps({"endpoints": TABLES})),
        ],
    )
    def test_files(self, tmp_path: Path, name: str, text: str) -> None:
        """TOML, YAML and JSON say the same as Python."""
        path = tmp_path / name
        path.write_text(text)
        assert ResourceConfig.load(path) == BOTH

    def test_dicts(self) -> None:
        """So do dicts, with classes inside them or not; they are left as they are."""
        before = copy.deepcopy(TABLES)
        assert ResourceConfig.load(TABLES) == ResourceConfig(TABLES) == BOTH
        assert EndpointConfig(**TABLES["fast"]) == BOTH.endpoints["fast"]
        mixed: dict[str, Any] = {
            **TABLES["fast"],
            "price": PRICE,
            "deployments": [HERE, THERE],
        }
        assert EndpointConfig(**mixed) == BOTH.endpoints["fast"]
        assert before == TABLES

    def test_design(self, tmp_path: Path) -> None:
        """The block of the design document loads, its fallback being bound."""
        path = tmp_path / "resources.toml"
        path.write_text(
            f'{DESIGN}[endpoints.smart]\nprovider = "openai"\nmodel = "m"\n'
        )
        fast = ResourceConfig.load(path).endpoints["fast"]
        assert (fast.requests_per_minute, fast.tokens_per_minute) == (1200.0, 200_000.0)
        assert fast.fallbacks == ("smart",)

    def test_values(self) -> None:
        """Configurations hash, copy, pickle and can be replaced; numbers are floats."""
        fast = BOTH.endpoints["fast"]
        for same in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert same == fast
            assert hash(same) == hash(fast)
        assert dataclasses.replace(fast, timeout=5).deployments == fast.deployments
        assert isinstance(endpoint(tokens_per_minute=5).tokens_per_minute, float)
        assert isinstance(HERE.requests_per_minute, float)

    def test_every_field_is_checked(self) -> None:
        """The checks know the fields of the class, and no others."""
        assert tuple(f.name for f in dataclasses.fields(EndpointConfig)) == FIELDS


class TestDeployments:
    def test_each(self) -> None:
        """Each deployment is complete, without deployments or fallbacks of its own."""
        assert BOTH.endpoints["fast"].each == (HERE, THERE)
        assert BOTH.endpoints["smart"].each == (CLAUDE,)
        assert endpoint(deployments=()).each == (endpoint(),)

    def test_deployment(self) -> None:
        """What limits belong to does not change with retries, timeouts or prices."""
        assert HERE.deployment == ("openai-compatible", URL, "FAST_API_KEY", "qwen3-8b")
        assert THERE.deployment == ("openai", "", "OPENAI_API_KEY", "gpt")
        assert endpoint(retries=0, timeout=1).deployment == endpoint().deployment

    def test_defaults(self) -> None:
        """A deployment takes from its endpoint what it leaves out, null said wins."""
        fields: dict[str, Any] = {
            "base_url": URL, "api_key_env": "KEY", "max_concurrent": 3, "timeout": 9.0,
            "requests_per_minute": 60.0, "tokens_per_minute": 5.0, "price": PRICE,
        }  # fmt: skip
        tables = [{}, {"base_url": OTHER, "max_concurrent": None, "price": None}]
        same, other = endpoint(**fields, deployments=tables).each
        assert same == endpoint(**fields)
        assert other == endpoint(
            **{**fields, "base_url": OTHER, "max_concurrent": None, "price": None}
        )

    def test_retries_are_of_the_alias(self) -> None:
        """All deployments have the retries of their endpoint."""
        config = endpoint(retries=7, deployments=[{}, endpoint(retries=1, model="n")])
        assert [each.retries for each in config.each] == [7, 7]
        fewer = dataclasses.replace(config, retries=0)
        assert [each.retries for each in fewer.each] == [0, 0]

    def test_another_provider(self) -> None:
        """Address, key and local settings are not handed to another provider."""
        tables: list[Any] = [
            {"provider": "anthropic"},
            {"provider": "local", "model": "smollm2", "threads": 2},
        ]
        here = endpoint(base_url=URL, api_key_env="KEY", deployments=tables)
        assert [each.deployment for each in here.each] == [
            ("anthropic", "", "ANTHROPIC_API_KEY", "m"),
            ("local", "", "", "smollm2"),
        ]
        tables = [{}, endpoint()]
        local = endpoint(provider="local", context=64, threads=2, deployments=tables)
        assert [(each.context, each.threads) for each in local.each] == [
            (64, 2),
            (None, None),
        ]

    @pytest.mark.parametrize(
        ("tables", "match"),
        [
            (5, ": has to be a list of tables, not int"),
            ({}, ": has to be a list of tables, not dict"),
            (None, ": has to be a list of tables, not null"),
            (["m"], r"\[0\]: has to be a table, not text"),
            ([{}, {"modle": ""}], r"\[1\]\.modle: is no known key; .*mean 'model'\?"),
            ([{"retries": 1}], r"\[0\]\.retries: belongs to the alias, not to one dep"),
            ([{"fallbacks": ["b"]}], r"\[0\]\.fallbacks: belongs to .* Move it one up"),
            ([], r": is empty, so nothing would answer\. Leave it out where the en"),
            ([{"deployments": []}], r"\[0\]\.deployments: belongs to the alias"),
            ([endpoint(fallbacks=["b"])], r"\[0\]\.fallbacks: belongs to the alias"),
            ([endpoint(deployments=[{}])], r"\[0\]\.deployments: belongs to the alia"),
            ([{}, {"max_concurrent": 0}], r"\[1\]\.max_concurrent: has to be at least"),
            ([{"price": {"input": 1}}], r"\[0\]\.price: output is missing"),
            ([{"threads": 2}], r"\[0\]\.threads: means nothing to provider 'openai'"),
            ([{"model": ""}], r"\[0\]\.model: is missing. Name a model of provider"),
            ([{"provider": "openai-compatible"}], r"\[0\]\.base_url: is missing. Give"),
        ],
    )
    def test_mistakes(self, tables: Any, match: str) -> None:
        """Each mistake in a deployment is named with its place."""
        table: Any = {"provider": "openai", "model": "m", "deployments": tables}
        refused({"a": table}, rf"^resources: endpoints\.a\.deployments{match}")
        with pytest.raises(ConfigurationError, match=f"^EndpointConfig: .*{match}"):
            EndpointConfig(**table)

    def test_left_out_on_both_levels(self) -> None:
        """A model or an address may be missing if each deployment has its own."""
        tables: list[Any] = [{"model": "m", "base_url": URL}, {"base_url": URL}, {}]
        table = {"provider": "openai-compatible", "deployments": tables}
        error = refused({"a": table}, "3 problems")
        assert [line.split(": ")[0] for line in str(error).splitlines()[1:]] == [
            "  endpoints.a.deployments[1].model",
            "  endpoints.a.deployments[2].model",
            "  endpoints.a.deployments[2].base_url",
        ]
        alone = EndpointConfig("openai-compatible", deployments=tuple(tables[:1]))
        assert (alone.model, alone.base_url) == ("", "")

    def test_all_at_once(self) -> None:
        """Problems of the endpoint and of its deployments are told together."""
        tables = [{"model": 5, "top": 1}, "m", {"retries": 2}]
        error = refused(
            {"a": {"provider": "openai", "timeout": 0, "deployments": tables}},
            "resources: 5 problems",
        )
        assert [line.split(": ")[0] for line in str(error).splitlines()[1:]] == [
            "  endpoints.a.timeout",
            "  endpoints.a.deployments[0].top",
            "  endpoints.a.deployments[0].model",
            "  endpoints.a.deployments[1]",
            "  endpoints.a.deployments[2].retries",
        ]

    def test_one_cause_is_told_once(self) -> None:
        """A mistake of the endpoint is not repeated for each deployment."""
        tables: list[Any] = [{}, {}]
        refused({"a": {"deployments": tables}}, "endpoints.a.provider: is missing")
        refused({"a": {"provider": "openai", "threads": 2, "deployments": tables}},
                "^resources: endpoints.a.threads: means nothing")  # fmt: skip


class TestFallbacks:
    def test_circle(self) -> None:
        """Aliases may stand in for each other."""
        assert BOTH.endpoints["smart"].fallbacks == ("fast",)
        assert ResourceConfig(BOTH.endpoints) == BOTH

    @pytest.mark.parametrize(
        ("fallbacks", "match"),
        [
            ("smart", r': has to be a list of aliases, not text, e.g. fallbacks = \["'),
            (None, ": has to be a list of aliases, not null"),
            ({"smart": 1}, ": has to be a list of aliases, not dict"),
            ([1], r"\[0\]: has to be an alias, not int"),
            (["smart", " "], r"\[1\]: is blank. Name an alias, or drop it"),
            (["smart", "smart"], r"\[1\]: 'smart' is repeated. An alias is tried once"),
            (["fast"], r"\[0\]: is this alias itself; known: last, smart. Name ano"),
            (["smrt"], r"\[0\]: 'smrt' is not bound; known: last, smart "
                       r"\(did you mean 'smart'\?\). Bind it, or correct the name"),
            (["last", "x" * 31], r"\[1\]: this text is not bound; known: last, smart"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("kind", [dict, endpoint])
    def test_mistakes(self, fallbacks: Any, match: str, kind: Any) -> None:
        """Each fallback is another alias that is bound, named once."""
        others: dict[str, Any] = {"smart": endpoint(), "last": endpoint()}
        own = rf"^(EndpointConfig: |resources: endpoints\.fast\.)fallbacks{match}"
        with pytest.raises(ConfigurationError, match=own):
            fast = kind(provider="openai", model="m", fallbacks=fallbacks)
            ResourceConfig.load({"endpoints": {"fast": fast, **others}})

    def test_among_other_mistakes(self) -> None:
        """A lost fallback is told with the other problems, bad neighbours or not."""
        table = {"provider": "openai", "fallbacks": ["b"]}
        error = refused({"a": table, 1: {}, "": {}}, "4 problems")
        assert "endpoints.a.fallbacks[0]: 'b' is not bound; none is known" in str(error)
