"""The app on Modal, as far as it can be seen without an account there."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.claas.api_helpers import KEYS, SERVER_KEY, FakeVllm, make_base, serving
from tests.claas.test_service import FakeTeaching

import claas.web.deployment as deployment
from claas import api, cli
from claas.config import Settings, read_settings
from claas.errors import ConfigurationError, ServingError, TeachingError
from claas.parts import Teaching
from claas.storage import create_initial_lora
from claas.web.deployment import check_deployable, deployment_of, environment_of
from claas.web.remote import RemoteTeaching
from claas.web.workshop import workshop_of

LORA = "ann/bot"
TOKENS = {"MODAL_TOKEN_ID": "ak-1", "MODAL_TOKEN_SECRET": "as-1"}
MODAL_KEYS = (*TOKENS, "MODAL_OAUTH_REFRESH_TOKEN", "HF_TOKEN")
HERE = pytest.mark.filterwarnings("ignore:The .* executing locally:UserWarning")
pytest.importorskip("modal")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those of the test, and no token of Modal."""
    import modal  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modal.config, "_user_config", {})
    for name in [n for n in os.environ if n.startswith("CLAAS_")] + [*MODAL_KEYS]:
        monkeypatch.delenv(name, raising=False)


def settings_on_modal(**more: Any) -> Settings:
    """Return settings that can be deployed."""
    given: dict[str, Any] = {
        **{"engine": "modal", "users": KEYS, "server_key": SERVER_KEY},
        **{"server_url": "https://vllm.example/v1", "base_model": "org/tiny"},
    }
    return read_settings(**{**given, **more})


# -- what is deployed ----------------------------------------------------------------


@dataclass
class FakeModal:
    """The part of ``modal`` that is used; notes what it is told.

    Args:
        is_container: Whether this is a container there.
    """

    is_container: bool = False
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    image: list[Any] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    Error: type[Exception] = RuntimeError

    def __post_init__(self) -> None:
        self.Volume = self.Function = self
        self.Secret = SimpleNamespace(from_dict=dict)
        self.Image = SimpleNamespace(debian_slim=self._layer)

    def App(self, name: str) -> "FakeModal":  # noqa: N802
        """Return the app."""
        self.name = name
        return self

    def from_name(self, name: str, *more: Any, **options: Any) -> Any:
        """Return a volume, or a function that is deployed."""
        self.asked.append((name, *more))
        return FakeVolume(name, self)

    def is_local(self) -> bool:
        """Whether this is no container."""
        return not self.is_container

    def asgi_app(self) -> Any:
        """Note it."""
        return lambda run: ("asgi", run)

    def concurrent(self, *, max_inputs: int) -> Any:
        """Note it."""
        return lambda run: (max_inputs, run)

    def function(self, **options: Any) -> Any:
        """Note a function."""

        def found(run: Any) -> Any:
            name = run.__name__ if callable(run) else run[1][1].__name__
            self.functions[name] = {"run": run, **options}
            return run

        return found

    def _layer(self, *given: Any, **options: Any) -> Any:
        self.image.append((given, options))
        return SimpleNamespace(
            pip_install=self._layer, add_local_python_source=self._layer
        )


@dataclass
class FakeVolume:
    """A volume of Modal, or what it looks up by a name."""

    name: str
    modal: FakeModal
    read_only: bool = False

    def with_mount_options(self, *, read_only: bool) -> "FakeVolume":
        """Return it, mounted otherwise."""
        return FakeVolume(self.name, self.modal, read_only)

    def reload(self) -> None:
        """Note it."""
        self.modal.asked.append("reload")

    def commit(self) -> None:
        """Note it."""
        self.modal.asked.append("commit")

    def remote(self, what: str, *given: Any) -> Any:
        """Do what the function does, in its container."""
        self.modal.asked.append(what)
        return api.teach(what, *given)


@pytest.fixture
def modal(monkeypatch: pytest.MonkeyPatch) -> FakeModal:
    """In the place of modal."""
    found = FakeModal()
    monkeypatch.setitem(sys.modules, "modal", found)
    return found


def test_one_container_serves_and_one_trains(modal: FakeModal) -> None:
    """The first is always there and alone writes; the second has the GPU."""
    deployment_of(settings_on_modal(gpu="H100", volume="ours"), api.web, api.teach)
    web, teach = modal.functions["web"], modal.functions["teach"]
    assert (modal.name, list(modal.functions)) == ("claas", ["web", "teach"])
    assert web["run"] == (1000, ("asgi", api.web)) and teach["run"] is api.teach
    assert (web["min_containers"], web["max_containers"]) == (1, 1)
    assert teach["max_containers"] == 1 and "min_containers" not in teach
    assert teach["gpu"] == "H100" and "gpu" not in web
    mounts = [
        (place, volume.name, volume.read_only)
        for function in (web, teach)
        for place, volume in function["volumes"].items()
    ]
    assert mounts == [
        ("/loras", "ours", False),
        ("/loras", "ours", True),
        ("/models", "ours-models", False),
    ]
    assert teach["env"] == {"HF_HOME": "/models"} and teach["timeout"] == 86_400
    assert web["timeout"] == 660
    (_, python), (libraries, _), (sources, _) = modal.image[:3]
    assert python == {"python_version": ".".join(map(str, sys.version_info[:2]))}
    assert any(line.startswith("torch>=") for line in libraries)
    assert not any(line.startswith(("ruff", "modal", "gguf")) for line in libraries)
    assert sources == ("butterfly", "claas")


def test_without_a_gpu_the_cpu_trains(modal: FakeModal) -> None:
    """The device goes with it."""
    settings = settings_on_modal(gpu="", limits={"wait": 1000})
    deployment_of(settings, api.web, api.teach)
    assert modal.functions["teach"]["gpu"] is None
    assert "CLAAS_DEVICE" not in modal.functions["teach"]["secrets"][0]
    assert modal.functions["web"]["timeout"] == 1060


def test_keys_are_in_secrets_only(
    modal: FakeModal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each function has those that it needs; the image has none."""
    monkeypatch.setenv("HF_TOKEN", "hf_1234")
    deployment_of(settings_on_modal(), api.web, api.teach)
    (web,), (teach,) = (f.pop("secrets") for f in modal.functions.values())
    assert json.loads(web["CLAAS_USERS"]) == KEYS
    assert web["CLAAS_SERVER_KEY"] == SERVER_KEY
    assert teach == {k: v for k, v in web.items() if k in teach}
    assert teach["HF_TOKEN"] == "hf_1234" and teach["CLAAS_BASE_MODEL"] == "org/tiny"
    for key in (*KEYS.values(), SERVER_KEY):
        assert key not in str(teach)
    for key in (*KEYS.values(), SERVER_KEY, "hf_1234"):
        assert key not in f"{modal.functions}{modal.image}"


def test_a_container_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what is about the machine that deploys, and its folders."""
    settings = settings_on_modal(
        **{"base_name": "tiny", "dtype": "bfloat16", "threads": 2, "port": 9},
        **{"server_timeout": 5.0, "limits": {"jobs": 3}, "gate": {"drift": 0.2}},
        training={"lr": 1e-3, "anchor_prompts": ("one", "two")},
        storage="/home/me/loras",
        key="key-of-ann-0123456789",
    )
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    here = {"storage": Path("/loras"), "device": "cuda", "port": 8080}
    wanted = {**settings.model_dump(), **here, "key": read_settings().key}
    assert read_settings().model_dump() == wanted
    assert not read_settings().key.get_secret_value()


def test_modals_own_loader_finds_the_app(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As ``modal deploy -m claas.api`` looks for it."""
    from modal.cli.import_refs import (  # noqa: PLC0415
        import_app_from_ref,
        list_cli_commands,
        parse_import_ref,
    )

    given = environment_of(settings_on_modal())
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    app = import_app_from_ref(parse_import_ref("claas.api", use_module_mode=True))
    assert app.name == "claas"
    found = list_cli_commands({"app": app})
    names = [(one.names, one.is_web_endpoint) for one in found]
    assert names == [(["app.web"], True), (["app.teach"], False)]
    monkeypatch.delenv("CLAAS_USERS")
    with pytest.raises(ConfigurationError, match="nobody may use this server"):
        _ = api.app


# -- what is refused, and the command ------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "local"}, 'set engine = "modal" to deploy there'),
        ({"users": {}}, "nobody may use this server"),
        ({"base_model": ""}, "Set 'base_model'"),
        ({"base_model": "/home/me/tiny"}, "'/home/me/tiny' is not on Modal: give its"),
        ({"base_model": "smollm2"}, "a folder in /models, where the volume 'claas-lo"),
        ({"server_url": "http://127.0.0.1:8000"}, "would be the container itself"),
        ({"server_url": "localhost:8000"}, "would be the container itself"),
        ({"server_url": "http://[::1]:8000/v1"}, "would be the container itself"),
        ({}, "no token of Modal here: run `modal setup`, or set MODAL_TOKEN_ID"),
    ],
)
def test_what_cannot_work_there_is_refused_here(
    given: dict[str, Any], said: str
) -> None:
    """Before anything is sent; what is missing and how to mend it."""
    with pytest.raises(ConfigurationError) as caught:
        check_deployable(settings_on_modal(**given))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "tokens", [TOKENS, {"MODAL_OAUTH_REFRESH_TOKEN": "r"}], ids=["token", "oauth"]
)
def test_the_command_calls_modals_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: dict[str, str]
) -> None:
    """With the same settings; the containers before end first."""
    calls: list[tuple[Sequence[str], Any]] = []

    def ran(command: Sequence[str], *, env: Any, check: bool) -> Any:
        calls.append((command, env))
        return SimpleNamespace(returncode=3)

    file = tmp_path / "modal.toml"
    file.write_text(
        'engine = "modal"\nserver_url = "http://vllm.example"\n'
        f'base_model = "/models/tiny"\n[users]\nann = "{KEYS["ann"]}"\n'
    )
    monkeypatch.setattr(cli, "subprocess", SimpleNamespace(run=ran))
    assert cli.main(["--config", str(file), "deploy"]) == 2 and not calls  # no token
    for name, value in tokens.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["--config", str(file), "deploy"]) == 3
    ((command, env),) = calls
    assert command[1:] == [
        *("-m", "modal", "deploy", "--strategy", "recreate", "-m", "claas.api")
    ]
    assert (env["CLAAS_CONFIG"], env["CLAAS_ENGINE"]) == (str(file), "modal")


def test_without_modal_or_the_package_the_fix_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each with what to install."""
    monkeypatch.setattr(deployment, "_PACKAGE", "no-such-package")
    with pytest.raises(ConfigurationError, match="'no-such-package' is not installed"):
        deployment_of(settings_on_modal(), api.web, api.teach)
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(ConfigurationError, match="pip install 'inf-engine"):
        check_deployable(settings_on_modal())


def test_claas_serve_does_not_train_on_modal() -> None:
    """Its worker would be where the volume is not."""
    with pytest.raises(ConfigurationError, match="where the API is deployed, too"):
        workshop_of(settings_on_modal())


# -- what runs -----------------------------------------------------------------------


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upstream_url: str
) -> Settings:
    """Settings in the environment of a container, its volume a folder; no torch."""
    base = str(make_base(tmp_path / "base"))
    more = {"server_url": upstream_url, "base_model": base, "base_name": "tiny"}
    found = environment_of(settings_on_modal(**more, training={"rank": 2}))
    for name, value in {**found, "CLAAS_STORAGE": str(tmp_path / "loras")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(api.tempfile, "tempdir", str(tmp_path))
    fake = FakeTeaching()
    monkeypatch.setattr(api, "_teaching", lambda: Teaching(fake, fake, fake.explain))
    return read_settings()


def teach_one(url: str) -> Any:
    """Make an adapter and an update of it; return the job."""
    headers = {"Authorization": f"Bearer {KEYS['ann']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as ann:
        assert ann.post("/v1/lora", json={"lora": LORA}).status_code == 201
        said = {"content": "shorter", "kind": "critique", "response": "well"}
        body = {"model": LORA, "prompt": "hello", "wait": True, **said}
        (job,) = ann.post("/v1/distill", json=body).json()["jobs"]
    return job


@HERE
def test_the_functions_run_here(
    told: Settings, upstream: FakeVllm, upstream_url: str
) -> None:
    """``web.local()`` is the whole API; a second one goes on from what was kept."""
    found = deployment_of(told, api.web, api.teach)
    with serving(found.web.local()) as url:
        assert teach_one(url)["result"]["outcome"] == "promoted"
    assert "ann-bot@v1" in upstream.adapters
    assert told.database_path.is_file()
    with serving(found.web.local()) as url:
        headers = {"Authorization": f"Bearer {KEYS['ann']}"}
        one = httpx.get(f"{url}/v1/lora/{LORA}", headers=headers).json()
        assert one["aliases"]["live"] == 1
        assert [said["state"] for said in one["feedback"]] == ["promoted"]


def test_a_container_reads_what_was_committed(
    told: Settings, modal: FakeModal, upstream: FakeVllm
) -> None:
    """What is written is committed before training asks for it, which reloads first;
    who alone writes never reloads."""
    modal.is_container = True
    with serving(api.web()) as url:
        modal.asked.clear()
        assert teach_one(url)["result"]["outcome"] == "promoted"
    steps = [one for one in modal.asked if one == "reload" or one in WORDS]
    assert steps == [w for word in WORDS for w in (word, "reload")]
    before = modal.asked[: modal.asked.index("judge")]
    assert before[before.index("train") :].count("commit") >= 2  # version, alias
    assert modal.asked[-1] == "commit"  # the database


WORDS = ("untaught", "train", "judge")


def test_training_never_writes_to_the_volume(
    told: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at copies, and its candidate comes back as files."""
    fake, folders = FakeTeaching(), []

    class Watching(FakeTeaching):
        """Notes where it looks."""

        def train(self, adapter: Path, lessons: Sequence[Any], out: Path) -> Any:
            """Copy the adapter."""
            folders.append(adapter)
            return super().train(adapter, lessons, out)

    monkeypatch.setattr(
        api, "_teaching", lambda: Teaching(Watching(), fake, fake.explain)
    )
    create_initial_lora(LORA, told.base_model, rank=2)
    live = told.storage / LORA / "v0"
    seen = sorted((path, path.stat().st_mtime_ns) for path in live.rglob("*"))
    live.chmod(0o500)
    candidate, files = api.teach("train", live, ())
    assert not folders[0].is_relative_to(told.storage) and not folders[0].exists()
    assert candidate.folder == Path() and candidate.figures == {"loss": 0.5}
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted((path, path.stat().st_mtime_ns) for path in live.rglob("*")) == seen


def test_the_base_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that the settings have: a folder's, or one of the Hub."""
    loaded = []

    def load(settings: Settings) -> Teaching:
        loaded.append(settings.base_model)
        fake = FakeTeaching()
        return Teaching(fake, fake, fake.explain)

    monkeypatch.setattr(api, "load_teaching", load)
    monkeypatch.setenv("CLAAS_BASE_MODEL", "org/tiny")
    api._teaching.cache_clear()
    assert api._teaching() is api._teaching()
    api._teaching.cache_clear()
    assert loaded == ["org/tiny"]


def test_errors_of_modal_leave_the_update_where_it_is(modal: FakeModal) -> None:
    """Those of the training itself come as they are, and nobody's words are told."""

    def ask(what: str, *given: Any) -> Any:
        if what == "untaught":
            raise TeachingError("no lesson fits.")
        raise modal.Error("a prompt of ann's")

    remote = RemoteTeaching(ask)
    with pytest.raises(TeachingError, match="no lesson fits"):
        remote.untaught(Path(), ())
    with pytest.raises(ServingError, match=r"not answer \(RuntimeError\)") as caught:
        remote.judge(Path(), Path(), (), ())
    assert "ann" not in str(caught.value)
