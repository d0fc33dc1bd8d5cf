"""ResourceConfig: read from anywhere, every mistake named with its place."""

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.errors import ConfigurationError, MissingKeyError
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.manager import ResourceManager

SECRET = "sk-proj-abc123DEF456"
URL = "http://127.0.0.1:8000/v1"

TOML = f"""
[endpoints.fast]
provider = "openai-compatible"
model = "qwen3-8b"
base_url = "{URL}/"
api_key_env = "FAST_API_KEY"
max_concurrent = 64
timeout = 30
retries = 0

[endpoints.embedded]
provider = "local"
context = 2048
threads = 2
"""

YAML = f"""
endpoints:
  fast:
    provider: openai-compatible
    model: qwen3-8b
    base_url: {URL}
    api_key_env: FAST_API_KEY
    max_concurrent: 64
    timeout: 30.0
    retries: 0
  embedded: {{provider: local, context: 2048, threads: 2, max_concurrent: null}}
"""

FAST = EndpointConfig(
    "openai-compatible", "qwen3-8b", URL, "FAST_API_KEY", 64, timeout=30.0, retries=0
)
EMBEDDED = EndpointConfig("local", context=2048, threads=2)
BOTH = ResourceConfig({"fast": FAST, "embedded": EMBEDDED})


def one(**fields: Any) -> dict[str, Any]:
    """Return a configuration of one endpoint that is right but for these fields."""
    return {"endpoints": {"a": {"provider": "openai", "model": "m", **fields}}}


def refused(source: Any, match: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError, match=match) as caught:
        ResourceConfig.load(source)
    assert SECRET not in str(caught.value)
    return caught.value


class TestSources:
    def test_toml(self, tmp_path: Path) -> None:
        """A TOML file is read, by Path and by str."""
        path = tmp_path / "resources.toml"
        path.write_text(TOML)
        assert ResourceConfig.load(path) == BOTH
        assert ResourceConfig.load(str(path)) == BOTH

    @pytest.mark.parametrize("suffix", [".yaml", ".yml", ".YML"])
    def test_yaml(self, tmp_path: Path, suffix: str) -> None:
        """A YAML file says the same."""
        path = tmp_path / f"resources{suffix}"
        path.write_text(YAML)
        assert ResourceConfig.load(path) == BOTH

    def test_json_and_dict(self, tmp_path: Path) -> None:
        """A JSON file and a dict of the same shape say the same."""
        endpoints = {k: dataclasses.asdict(v) for k, v in BOTH.endpoints.items()}
        for table in endpoints.values():
            del table["deployments"]  # none is no list of none
        path = tmp_path / "resources.json"
        path.write_text(json.dumps({"endpoints": endpoints}))
        assert ResourceConfig.load(path) == BOTH
        assert ResourceConfig.load({"endpoints": endpoints}) == BOTH
        assert ResourceConfig.load({"endpoints": BOTH.endpoints}) == BOTH

    def test_itself(self) -> None:
        """A ResourceConfig is returned as it is."""
        assert ResourceConfig.load(BOTH) is BOTH

    @pytest.mark.parametrize("name", ["no.toml", "no", "no/no.ini"])
    def test_missing_file(self, tmp_path: Path, name: str, monkeypatch: Any) -> None:
        """It is named, and where it was looked for."""
        monkeypatch.chdir(tmp_path)
        place = re.escape(str(tmp_path / name))
        what = "there is no such resources file"
        refused(name, f"^{name}: {what}: looked for {place}. Correct the path, or")
        refused(tmp_path / name, f"^{place}: {what}. Correct the path, or write the")

    def test_directory(self, tmp_path: Path) -> None:
        """A path that is no file is refused."""
        path = tmp_path / "dir.toml"
        path.mkdir()
        refused(path, r"dir\.toml: cannot be read \(.*\)\. Correct the path")

    def test_suffix(self, tmp_path: Path) -> None:
        """A file of another kind is refused, not guessed at."""
        path = tmp_path / "resources.ini"
        path.write_text(TOML)
        refused(path, r"resources\.ini: .* \.toml, \.json, \.yaml, \.yml; rename it")

    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            ("a.toml", "[endpoints.a]\nmodel = \n", r"is not TOML: .*line 2.*Correct"),
            ("a.json", '{"endpoints":\n {,}}', r"is not JSON: .*line 2"),
            ("a.yaml", "endpoints:\n  a: [1", r"is not plain YAML at line 2: expected"),
            ("a.yaml", "a: \x07", "is not plain YAML: ReaderError"),
            ("a.yaml", "a: 2024-99-99", "is not plain YAML: ValueError"),
            ("a.toml", "x = " + "[" * 5000, "is not TOML: "),
            ("a.json", "[" * 100_000, "is not JSON: "),
            ("a.yaml", "", "the whole: has to be a table, not null"),
            ("a.json", "[1]", "the whole: has to be a table, not list"),
        ],
    )
    def test_syntax(self, tmp_path: Path, name: str, text: str, match: str) -> None:
        """A broken file is refused with its name, the line where there is one."""
        path = tmp_path / name
        path.write_text(text)
        refused(path, rf"{name}: {match}")

    def test_not_utf8(self, tmp_path: Path) -> None:
        """A file in another encoding is refused."""
        path = tmp_path / "a.toml"
        path.write_bytes(b"a = '\xff'")
        refused(path, r"a\.toml: is not UTF-8 text")

    def test_yaml_runs_nothing(self, tmp_path: Path) -> None:
        """A YAML file cannot run code."""
        mark = tmp_path / "ran"
        path = tmp_path / "a.yaml"
        path.write_text(f"endpoints: !!python/object/apply:os.mkdir ['{mark}']")
        refused(path, "is not plain YAML at line 1: could not determine")
        assert not mark.exists()

    def test_yaml_secret_in_broken_file(self, tmp_path: Path) -> None:
        """A fault of YAML does not quote the file, nor do its causes."""
        path = tmp_path / "a.yaml"
        path.write_text(f"endpoints:\n  a: {{api_key: {SECRET} : x: }}\n")
        error = refused(path, "is not plain YAML at line 2")
        assert error.__cause__ is None

    def test_yaml_not_installed(self, tmp_path: Path) -> None:
        """Without PyYAML the fix is named; TOML does not need it."""
        (tmp_path / "a.yaml").write_text(YAML)
        (tmp_path / "a.toml").write_text(TOML)
        code = (
            "import sys\n"
            "sys.modules['yaml'] = None\n"
            "from inf_engine.errors import ConfigurationError\n"
            "from inf_engine.resources.config import ResourceConfig\n"
            "ResourceConfig.load(sys.argv[2])\n"
            "try: ResourceConfig.load(sys.argv[1])\n"
            "except ConfigurationError as exc: sys.stdout.write(str(exc))\n"
        )
        files = [str(tmp_path / "a.yaml"), str(tmp_path / "a.toml")]
        done = subprocess.run(
            [sys.executable, "-c", code, *files],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "a.yaml: reading YAML needs PyYAML" in done.stdout
        assert "pip install 'inf-engine[yaml]'" in done.stdout


class TestDefaults:
    def test_endpoint(self) -> None:
        """What is left out has its documented default."""
        config = EndpointConfig("openai", "gpt")
        assert dataclasses.astuple(config) == (
            "openai", "gpt", "", "OPENAI_API_KEY", None, 600.0, 2, None, None,
            None, None, None, (), (), 0.0, True,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("config", "variable"),
        [
            (EndpointConfig("openai", "m"), "OPENAI_API_KEY"),
            (EndpointConfig("openai", "m", api_key_env="MINE"), "MINE"),
            (EndpointConfig("anthropic", "m"), "ANTHROPIC_API_KEY"),
            (EndpointConfig("openai-compatible", "m", URL), ""),
            (EndpointConfig("local"), ""),
        ],
    )
    def test_key_variable(self, config: EndpointConfig, variable: str) -> None:
        """Only the two big providers have a key variable of their own."""
        assert config.api_key_env == variable

    def test_local_model(self) -> None:
        """The local provider has a model of its own."""
        assert EndpointConfig("local").model == "smollm2"
        assert EndpointConfig("local", "other.gguf").model == "other.gguf"

    def test_frozen_and_copied(self) -> None:
        """Configurations are frozen, copy and pickle, and keep their own table."""
        table = {"a": EMBEDDED}
        config = ResourceConfig(table)
        table["b"] = EMBEDDED
        assert list(config.endpoints) == ["a"]
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.endpoints["a"].retries = 3
        assert copy.deepcopy(BOTH) == BOTH
        assert pickle.loads(pickle.dumps(BOTH)) == BOTH
        assert dataclasses.replace(FAST, retries=1).retries == 1
        assert hash(FAST) == hash(copy.deepcopy(FAST))


class TestKeys:
    def test_found(self) -> None:
        """The key is read from the environment it is given, blanks stripped."""
        environ = {"OPENAI_API_KEY": f" {SECRET}\n"}
        assert EndpointConfig("openai", "m").api_key("a", environ) == SECRET

    def test_none_needed(self) -> None:
        """An endpoint that names no variable needs no key."""
        environ = {"OPENAI_API_KEY": SECRET}
        assert EndpointConfig("local").api_key("a", environ) is None
        assert EndpointConfig("openai-compatible", "m", URL).api_key("a", {}) is None

    @pytest.mark.parametrize("environ", [{}, {"FAST_API_KEY": " "}])
    def test_missing(self, environ: dict[str, str]) -> None:
        """A variable that is unset or empty is named, with the alias."""
        with pytest.raises(
            MissingKeyError,
            match=r"'fast' \(openai-compatible\) .* FAST_API_KEY is not set\. Set it",
        ):
            FAST.api_key("fast", environ)

    def test_never_kept(self) -> None:
        """Reading a key leaves it nowhere in the configuration."""
        FAST.api_key("fast", {"FAST_API_KEY": SECRET})
        assert SECRET not in repr(BOTH)

    @pytest.mark.parametrize(
        "value", [SECRET, "my-key", "Key", "9KEY", "A" * 65, "AIza$", "A B"]
    )
    def test_pasted(self, value: str) -> None:
        """A key where a variable's name belongs is refused and not repeated."""
        error = refused(one(api_key_env=value), "endpoints.a.api_key_env: has to be the"
                        " name of an environment variable.*never the key")  # fmt: skip
        assert value not in str(error)
        with pytest.raises(ConfigurationError, match="EndpointConfig: api_key_env: ha"):
            EndpointConfig("openai", "m", api_key_env=value)

    @pytest.mark.parametrize(
        "fields",
        [
            {"provider": SECRET * 2},
            {"base_url": SECRET},
            {"base_url": f"https://user:{SECRET}@host/v1"},
            {"base_url": f"https://host/v1?key={SECRET}"},
            {"api_key": SECRET},
            {"timeout": SECRET},
            {"max_concurrent": SECRET},
            {"tokens_per_minute": SECRET},
            {"price": {"input": 1, "output": SECRET}},
            {"fallbacks": [SECRET * 2]},
            {"fallbacks": SECRET},
            {"deployments": [{"api_key_env": SECRET}]},
            {"deployments": [{}, {"base_url": SECRET}]},
            {"deployments": [SECRET]},
        ],
    )
    def test_elsewhere(self, fields: dict[str, Any]) -> None:
        """A key pasted into any field is not repeated."""
        refused(one(**fields), r"resources: endpoints\.a\.")


class TestMistakes:
    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            ({"modle": "m"}, r"modle: is no known key; known: .*mean 'model'\?"),
            ({"request_per_minute": 5}, r"request_p.* mean 'requests_per_minute'\?"),
            ({"provider": "opnai"}, r"provider: 'opnai' is no .*mean 'openai'\?"),
            ({"provider": 5}, "provider: has to be text, not int"),
            ({"provider": None}, "provider: has to be text, not null"),
            ({"model": ["m"]}, "model: has to be text, not list"),
            ({"model": ""}, "model: is missing. Name a model of provider 'openai'"),
            ({"base_url": 5}, "base_url: has to be text, not int"),
            ({"base_url": "ftp://host/v1"}, "base_url: has to be an address like"),
            ({"base_url": "host:8000/v1"}, "base_url: has to be an address like"),
            ({"base_url": "https://"}, "base_url: has to be an address like"),
            ({"base_url": "http://a:99999"}, "base_url: has to be an address like"),
            ({"base_url": "http://a b/v1"}, "base_url: has to be an address like"),
            ({"base_url": "http://a/v1?x=1"}, "base_url: must hold no user, password"),
            ({"api_key_env": 5}, "api_key_env: has to be text, not int"),
            ({"max_concurrent": 0}, "max_concurrent: has to be at least 1, not 0"),
            ({"max_concurrent": True}, "max_concurrent: .*whole number, not true/fal"),
            ({"max_concurrent": 1.5}, "max_concurrent: .*whole number, not float"),
            ({"max_concurrent": "8"}, "max_concurrent: .*whole number, not text"),
            ({"timeout": 0}, "timeout: has to be more than 0 seconds and finite, not"),
            ({"timeout": float("nan")}, "timeout: has to be more than 0 seconds"),
            ({"timeout": float("inf")}, "timeout: has to be more than 0 seconds"),
            ({"timeout": 10**400}, "timeout: has to be more than 0 seconds"),
            ({"timeout": True}, "timeout: has to be a number of seconds, not true/fa"),
            ({"timeout": "30"}, "timeout: has to be a number of seconds, not text"),
            ({"timeout": None}, "timeout: has to be a number of seconds, not null"),
            ({"timeout": 10**5000}, "timeout: .* finite, not a number so long"),
            ({"requests_per_minute": 0}, "requests_per_minute: .* than 0 req.*, not 0"),
            ({"requests_per_minute": True}, "requests_p.* of requests, not true/false"),
            ({"requests_per_minute": "9"}, "requests_p.* number of requests, not text"),
            ({"tokens_per_minute": -0.5}, "tokens_per_minute: .* tokens .*, not -0.5"),
            (
                {"tokens_per_minute": float("nan")},
                "tokens_per_minute: .* finite, not n",
            ),
            (
                {"tokens_per_minute": float("inf")},
                "tokens_per_minute: .* finite, not i",
            ),
            ({"tokens_per_minute": 10**400}, "tokens_per_minute: .* a number so long"),
            ({"price": 0.5}, r"price: has to be a table like \{input = .*, not float"),
            ({"price": {"input": 1}}, "price: output is missing"),
            ({"price": {"input": 1, "output": "2"}}, "price: output has to be a num"),
            ({"price": {"inptu": 1}}, r"price: inptu is no known.* mean 'input'\?"),
            ({"retries": -1}, "retries: has to be at least 0, not -1"),
            ({"retries": -(10**5000)}, "retries: has .* 0, not a number so long"),
            ({"retries": False}, "retries: has to be a whole number, not true/false"),
            ({"context": 512}, "context: means nothing to provider 'openai'. Drop it"),
            ({"threads": 2}, "threads: means nothing to provider 'openai'"),
            ({"provider": "local", "context": 0}, "context: has to be at least 1"),
            ({"provider": "local", "threads": "2"}, "threads: .*whole number, not te"),
            ({"provider": "local", "base_url": URL}, "base_url: means nothing to pro"),
            ({"provider": "local", "api_key_env": "A"}, "api_key_env: means nothing"),
            ({"provider": "openai-compatible"}, "base_url: is missing. Give the serv"),
        ],
    )
    def test_fields(self, fields: dict[str, Any], match: str) -> None:
        """Each mistake is named with alias, field, what is wrong and what to do."""
        refused(one(**fields), rf"^resources: endpoints\.a\.{match}")

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            ({}, r"resources: endpoints: binds no alias. Add .*<alias>\": client"),
            ({"a": {}}, "endpoints.a.provider: is missing; known: anthropic"),
            ({"endpoints": {}}, "endpoints: binds no alias"),
            ({"endpoints": [1]}, "endpoints: has to be a table of aliases, not list"),
            ({"endpoints": {"a": "gpt"}}, "endpoints.a: has to be a table, not text"),
            ({"endpoints": {"a": {}}}, "endpoints.a.provider: is missing; known: ant"),
            ({"endpoints": {1: {}}}, "endpoints: has an alias that is int. Name"),
            ({"endpoints": {"": {}}}, "endpoints: has an alias that is empty. Name"),
            ({"endpoints": {" ": {}}}, "endpoints: has an alias that is text"),
            ({**one(), "endpoint": {}}, r"endpoint: is no known.*mean 'endpoints'\?"),
            (5, "resources: the whole: has to be a table, not int"),
        ],
    )
    def test_shape(self, data: Any, match: str) -> None:
        """A configuration of another shape is refused with the place."""
        refused(data, match)

    def test_all_at_once(self, tmp_path: Path) -> None:
        """Every problem of a file is told in one message, each on its line."""
        path = tmp_path / "my.toml"
        path.write_text(
            "[endpoints.a]\nprovider = 'openai'\nmodel = 'm'\nretries = -1\ntop = 1\n"
            "[endpoints.b]\nprovider = 'x'\n"
        )
        lines = str(refused(path, "my.toml: 3 problems")).splitlines()[1:]
        assert [line.split(":")[0] for line in lines] == [
            "  endpoints.a.top",
            "  endpoints.a.retries",
            "  endpoints.b.provider",
        ]

    def test_built_in_python(self) -> None:
        """What is built in Python is checked as what is read from a file."""
        with pytest.raises(ConfigurationError, match="EndpointConfig: retries: has to"):
            EndpointConfig("openai", "m", retries=-1)
        with pytest.raises(ConfigurationError, match="endpoints.a: has to be an Endp"):
            ResourceConfig({"a": "gpt"})
        with pytest.raises(ConfigurationError, match="an alias that is int"):
            ResourceConfig({1: EMBEDDED})  # type: ignore

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["endpoints", "a", *EndpointConfig.__dataclass_fields__]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        )
    )
    def test_anything(self, data: Any) -> None:
        """Any data gives a configuration or a ConfigurationError, nothing else."""
        for source in (
            {"endpoints": data},
            {"endpoints": {"a": data}},
            one(model=data, base_url=data, timeout=data, retries=data),
            one(deployments=[data]),
            one(price=data, fallbacks=data, tokens_per_minute=data),
        ):
            try:
                config = ResourceConfig.load(source)
            except ConfigurationError as exc:
                assert str(exc).startswith("resources: ")
            else:
                assert ResourceConfig.load({"endpoints": config.endpoints}) == config


@pytest.mark.parametrize("load", [ResourceConfig, ResourceConfig.load])
def test_plain_dicts_become_endpoints(load: Any) -> None:
    """In Python the level `endpoints` and the class may be left out."""
    data: Any = {"provider": "openai", "model": "x"}
    config = load({"a": data, "b": EndpointConfig(**data)})
    assert config.endpoints["a"] == config.endpoints["b"] == EndpointConfig(**data)
    with pytest.raises(ConfigurationError, match=r"endpoints\.a\.modle: is no known"):
        load({"a": {"provider": "openai", "modle": "x"}})


def test_no_alias_at_all() -> None:
    """A description that binds nothing is refused; a program of ops needs no client."""
    with pytest.raises(ConfigurationError, match="endpoints: binds no alias. Add a "):
        ResourceConfig({})
    assert ResourceManager({}).aliases == ()
