"""Versions are whole and stay as they are, aliases are true, names stay inside."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from claas import storage, volumes
from claas.errors import (
    ConfigurationError,
    ConflictError,
    IdentifierError,
    NotFoundError,
    StorageError,
)
from claas.storage import (
    alias,
    create_initial_lora,
    default_storage,
    delete_lora,
    export_lora,
    list_loras,
    load_lora,
    move_alias,
    save_lora,
    updating,
    version,
    versions,
)
from claas.volumes import LocalVolume, ModalVolume, default_root

BASE = {
    **{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "intermediate_size": 12, "num_hidden_layers": 2},
    "head_dim": 6,
}


@pytest.fixture
def volume(tmp_path: Path) -> LocalVolume:
    """An empty volume."""
    return LocalVolume(tmp_path / "loras")


@pytest.fixture
def kuro(volume: LocalVolume) -> str:
    """The adapter ann/kuro, with v0."""
    create_initial_lora("ann/kuro", "tiny", rank=2, base=BASE, storage=volume)
    return "ann/kuro"


def test_the_calls_of_the_seed_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """create, load, save: with positional arguments and the default storage."""
    monkeypatch.setenv("CLAAS_STORAGE", str(tmp_path / "loras"))
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    lora_id = create_initial_lora("user/model", base_model_name=str(tmp_path))
    local_path = load_lora("user/model")
    assert local_path == tmp_path / "loras" / "user" / "model" / "v0"
    new_id = save_lora(local_path, "user/model")
    assert (lora_id, new_id) == ("user/model@v0", "user/model@v1")
    assert list_loras() == ["user/model"]
    monkeypatch.delenv("CLAAS_STORAGE")
    monkeypatch.setenv("HOME", "/home/ann")
    root = Path("/home/ann/.local/share/claas/loras")
    assert default_root(tmp_path / "none") == root
    assert default_root(tmp_path) == tmp_path
    assert default_storage().root in (root, Path("/loras"))


def test_a_version_knows_what_it_is(kuro: str, volume: LocalVolume) -> None:
    source = load_lora(kuro, volume)
    save_lora(source, kuro, {"parent": "ann/kuro@v0", "update": "u1"}, volume)
    old, new = versions(kuro, volume)
    assert (old.id, old.number, old.aliases) == ("ann/kuro@v0", 0, ("live",))
    assert (new.id, new.number, new.aliases) == ("ann/kuro@v1", 1, ("latest",))
    assert (new.meta["parent"], new.meta["update"]) == ("ann/kuro@v0", "u1")
    assert old.meta["base"] == "tiny" and old.meta["rank"] == 2
    assert new.meta["created"] >= old.meta["created"] > 1.7e9
    sizes = [p.stat().st_size for p in new.path.iterdir() if p.name != "meta.json"]
    assert new.meta["bytes"] == sum(sizes)


def test_a_version_stays_as_it_was_saved(kuro: str, tmp_path: Path) -> None:
    """It is a copy; the optimizer's state is kept, folders and links are not."""
    volume = LocalVolume(tmp_path / "loras")
    source = tmp_path / "trained"
    source.mkdir()
    for path in load_lora(kuro, volume).iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "optimizer.safetensors").write_bytes(b"state")
    (source / "folder").mkdir()
    (source / "link").symlink_to(source / "optimizer.safetensors")
    saved = save_lora(source, kuro, storage=volume)
    (source / "optimizer.safetensors").write_bytes(b"other")
    kept = load_lora(saved, volume)
    assert (kept / "optimizer.safetensors").read_bytes() == b"state"
    names = ["adapter_config.json", "adapter_model.safetensors", "meta.json"]
    assert sorted(p.name for p in kept.iterdir()) == [*names, "optimizer.safetensors"]


def test_aliases_move_and_name_versions(kuro: str, volume: LocalVolume) -> None:
    save_lora(load_lora(kuro, volume), kuro, storage=volume)
    assert alias(kuro, "live", volume) == "ann/kuro@v0"
    assert alias(kuro, "latest", volume) == "ann/kuro@v1"
    assert alias(kuro, "candidate", volume) is None
    move_alias(kuro, "candidate", "ann/kuro@v1", volume)
    move_alias(kuro, "live", "ann/kuro@candidate", volume)
    move_alias(kuro, "candidate", None, volume)
    assert version("ann/kuro@live", volume).aliases == ("latest", "live")
    with pytest.raises(NotFoundError, match=r"no ann/kuro@candidate: .* are v0, v1"):
        load_lora("ann/kuro@candidate", volume)
    with pytest.raises(NotFoundError, match="no ann/kuro@v7"):
        move_alias(kuro, "live", "ann/kuro@v7", volume)
    with pytest.raises(IdentifierError, match="bob/kuro@v0 is no version of ann/kuro"):
        move_alias(kuro, "live", "bob/kuro@v0", volume)
    with pytest.raises(IdentifierError, match="'latest' cannot be moved"):
        move_alias(kuro, "latest", "ann/kuro@v0", volume)
    with pytest.raises(IdentifierError, match="no alias 'newest'"):
        alias(kuro, "newest", volume)
    assert alias(kuro, "live", volume) == "ann/kuro@v1"


def test_a_number_is_never_used_twice(kuro: str, volume: LocalVolume) -> None:
    """Neither after a version was deleted nor after the whole adapter was."""
    source = load_lora(kuro, volume)
    save_lora(source, kuro, storage=volume)
    delete_lora("ann/kuro@v1", volume)
    assert save_lora(source, kuro, storage=volume) == "ann/kuro@v2"
    with pytest.raises(ConflictError, match="ann/kuro@v0 is live: move that alias"):
        delete_lora("ann/kuro@v0", volume)
    delete_lora(kuro, volume)
    assert list_loras(storage=volume) == []
    assert [p.name for p in source.parent.iterdir()] == ["state.json"]
    with pytest.raises(NotFoundError, match="no adapter ann/kuro: make it with"):
        load_lora(kuro, volume)
    again = create_initial_lora(kuro, "tiny", base=BASE, storage=volume)
    assert again == "ann/kuro@v3" == alias(kuro, "live", volume)
    with pytest.raises(IdentifierError, match="ann/kuro@live is an alias"):
        delete_lora("ann/kuro@live", volume)


def test_adapters_are_listed_by_user(volume: LocalVolume) -> None:
    """What is no adapter is not, whatever lies in the folder."""
    for name in ("bob/x", "ann/kuro", "ann/a"):
        create_initial_lora(name, "tiny", base=BASE, storage=volume)
    (volume.root / "ann" / "Odd").mkdir()
    (volume.root / "ann" / "empty").mkdir()
    assert list_loras(storage=volume) == ["ann/a", "ann/kuro", "bob/x"]
    assert list_loras("ann", volume) == ["ann/a", "ann/kuro"]
    assert list_loras("eve", volume) == []
    with pytest.raises(IdentifierError):
        list_loras("*", volume)


NAMELESS = ("../ann/kuro", "ann/../kuro", "ann/kuro\0", "Ann/kuro", "ann", "ann/kuro/x")


@pytest.mark.parametrize("name", NAMELESS)
def test_no_call_leaves_the_folder(name: str, volume: LocalVolume, kuro: str) -> None:
    source = load_lora(kuro, volume)
    calls: list[Any] = [
        lambda: create_initial_lora(name, "tiny", base=BASE, storage=volume),
        lambda: save_lora(source, name, storage=volume),
        lambda: load_lora(name, volume),
        lambda: versions(name, volume),
        lambda: alias(name, "live", volume),
        lambda: move_alias(name, "live", None, volume),
        lambda: export_lora(name, volume.root / "x.zip", volume),
        lambda: delete_lora(name, volume),
        lambda: updating(name, "a test", storage=volume),
    ]
    for call in calls:
        with pytest.raises(IdentifierError, match="is no name of an adapter"):
            call()
    assert list_loras(storage=volume) == ["ann/kuro"]


def test_an_adapter_of_peft_becomes_one_here(kuro: str, volume: LocalVolume) -> None:
    """Its first version is live at once."""
    saved = save_lora(load_lora(kuro, volume), "bob/own", storage=volume)
    assert saved == "bob/own@v0" == alias("bob/own", "live", volume)


def test_a_version_is_not_saved_as_a_version(kuro: str, volume: LocalVolume) -> None:
    with pytest.raises(IdentifierError, match="'ann/kuro@v1' names a version"):
        save_lora(load_lora(kuro, volume), "ann/kuro@v1", storage=volume)
    with pytest.raises(ConflictError, match="there is an adapter ann/kuro already"):
        create_initial_lora(kuro, "tiny", base=BASE, storage=volume)


def test_an_export_is_one_file_of_pefts(kuro: str, tmp_path: Path) -> None:
    volume = LocalVolume(tmp_path / "loras")
    source = load_lora(kuro, volume)
    (source / "optimizer.safetensors").write_bytes(b"state")
    target = export_lora("ann/kuro@live", tmp_path / "kuro.zip", volume)
    with zipfile.ZipFile(target) as archive:
        names = ["adapter_config.json", "adapter_model.safetensors", "meta.json"]
        assert archive.namelist() == names
        weights = archive.read("adapter_model.safetensors")
    assert weights == (source / "adapter_model.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kuro.zip", "loras"]
    with pytest.raises(ConflictError, match=r"kuro\.zip exists: name another file"):
        export_lora(kuro, target, volume)


def damage(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_damaged_is_said(kuro: str, volume: LocalVolume) -> None:
    folder = load_lora(kuro, volume)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    damage(folder / "adapter_model.safetensors")
    with pytest.raises(
        StorageError, match=r"adapter_model\.safetensors of .*@v0 is dam"
    ):
        load_lora(kuro, volume)
    (folder / "adapter_model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(StorageError, match="damaged or cut off"):
        save_lora(folder, kuro, storage=volume)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(StorageError, match="is no adapter: adapter_config"):
        save_lora(folder, kuro, storage=volume)
    with pytest.raises(StorageError, match="cannot read .*No such file"):
        load_lora(kuro, volume)
    (folder / "meta.json").write_text("[")
    with pytest.raises(StorageError, match=r"meta\.json is damaged: it is no JSON"):
        versions(kuro, volume)
    (folder / "meta.json").write_text('{"files": 3}')
    with pytest.raises(StorageError, match=r"meta\.json is missing or damaged"):
        versions(kuro, volume)
    (folder.parent / "state.json").write_text('{"aliases": 3}')
    with pytest.raises(StorageError, match=r"state\.json is damaged"):
        alias(kuro, "live", volume)


@pytest.mark.parametrize("name", ["fsync", "rename", "replace"])
def test_a_full_disk_changes_nothing(
    name: str, kuro: str, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call meets it, the error says so and the old state is there."""
    source = load_lora(kuro, volume)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(volumes.os, name, full)
        if name != "replace":
            with pytest.raises(StorageError, match="cannot change .*No space left"):
                save_lora(source, kuro, storage=volume)
        if name != "rename":
            with pytest.raises(StorageError, match="cannot change .*No space left"):
                move_alias(kuro, "candidate", "ann/kuro@v0", volume)
    assert [v.id for v in versions(kuro, volume)] == ["ann/kuro@v0"]
    assert alias(kuro, "candidate", volume) is None
    assert not list(source.parent.glob(".*"))
    assert save_lora(source, kuro, storage=volume) == "ann/kuro@v1"


def test_one_update_at_a_time(
    kuro: str, volume: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is told who is the first; saving and reading go on; other adapters
    are free."""
    create_initial_lora("ann/other", "tiny", base=BASE, storage=volume)
    monkeypatch.setattr(storage, "PATIENCE_S", 0.0)
    with updating(kuro, "update u1", storage=volume):
        who = r"'ann\+kuro\+update' was not free in 0 s: held by update u1, process "
        with pytest.raises(StorageError, match=who + str(os.getpid())):
            with updating(kuro, "update u2", storage=volume):
                pass
        save_lora(load_lora(kuro, volume), kuro, storage=volume)
        with updating("ann/other", "update u3", storage=volume):
            pass
    with updating(kuro, "update u4", storage=volume):
        pass
    with volumes.hold(volume, "ann+kuro", 0, "a test"):
        with pytest.raises(StorageError, match="held by a test, process"):
            save_lora(load_lora(kuro, volume), kuro, storage=volume)


NURSERY = """
import os, random, signal, sys, time
from pathlib import Path
from claas.storage import alias, load_lora, move_alias, save_lora, versions
from claas.volumes import LocalVolume

volume, chance = LocalVolume(Path(sys.argv[1])), random.Random(7)
source = load_lora("ann/kuro@v0", volume)

def count(most):
    left = most
    def called(frame, event, arg):
        nonlocal left
        left -= event == "c_call"
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(called)
    return lambda: most - left

def work(pipe, most):
    if most:
        count(most)
    while True:
        new = save_lora(source, "ann/kuro", storage=volume)
        os.write(pipe, b"s" + new.split("@v")[1].encode() + b"\\n")
        move_alias("ann/kuro", "live", new, volume)
        os.write(pipe, b"l" + new.split("@v")[1].encode() + b"\\n")

calls = count(-1)
save_lora(source, "ann/kuro", storage=volume)
move_alias("ann/kuro", "live", "ann/kuro@v1", volume)
sys.setprofile(None)
calls = calls()

for turn in range(int(sys.argv[2])):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        work(writer, turn % 4 and chance.randrange(1, calls))
    os.close(writer)
    said = b""
    if turn % 4 == 0:  # any moment; else any call of the first save and promotion
        said = os.read(reader, 4096)
        time.sleep(chance.random() * 0.02)
        os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    while more := os.read(reader, 65536):
        said += more
    os.close(reader)
    told = {kind: [int(x[1:]) for x in said.decode().split("\\n")[:-1] if x[0] == kind]
            for kind in "sl"}
    numbers = [v.number for v in versions("ann/kuro", volume)]
    assert numbers == list(range(len(numbers))), numbers
    assert not told["s"] or numbers[-1] - told["s"][-1] in (0, 1), (numbers, told)
    load_lora("ann/kuro", volume)
    live = int(alias("ann/kuro", "live", volume).split("@v")[1])
    assert not told["l"] or live >= told["l"][-1], (live, told["l"])
    assert live <= numbers[-1]
    load_lora("ann/kuro@live", volume)
print(len(numbers))
"""


def test_whoever_is_killed_leaves_whole_versions(
    kuro: str, volume: LocalVolume
) -> None:
    """120 processes are killed while they save and promote, at random moments and in
    random calls: what was told as saved is there, nothing half, the alias is true."""
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, str(volume.root), "120"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) > 20
    save_lora(load_lora(kuro, volume), kuro, storage=volume)  # sweeps
    folder = volume.root / "ann" / "kuro"
    assert not list(folder.glob(".*"))
    for found in versions(kuro, volume):
        load_lora(found.id, volume)


class FakeModal:
    """The part of ``modal`` that is used, on a folder; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.Volume = self
        self.error: Exception | None = None

    def from_name(self, name: str, *, create_if_missing: bool = False) -> "FakeModal":
        self.asked.append((name, create_if_missing))
        return self

    def reload(self) -> None:
        self.asked.append("reload")
        if self.error:
            raise self.error

    def commit(self) -> None:
        self.asked.append("commit")


def test_a_modal_volume_is_refreshed_and_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change sees what others wrote before, and is committed after; locks lie
    outside of it."""
    modal = FakeModal()
    monkeypatch.setitem(sys.modules, "modal", modal)
    monkeypatch.setattr(volumes.tempfile, "tempdir", str(tmp_path))
    volume = ModalVolume("claas-loras", tmp_path / "loras")
    assert modal.asked == [("claas-loras", True)]
    create_initial_lora("ann/kuro", "tiny", base=BASE, storage=volume)
    assert modal.asked[1:] == ["reload", "commit"]
    assert volume.volume is modal
    load_lora("ann/kuro", volume)
    assert modal.asked[3:] == ["reload"]
    assert (tmp_path / "claas-locks-claas-loras" / "ann+kuro.lock").exists()
    assert ModalVolume("x").root == Path("/loras")
    alone = ModalVolume("claas-loras", tmp_path / "loras", alone=True)
    del modal.asked[:]
    load_lora("ann/kuro", alone)
    save_lora(load_lora("ann/kuro", alone), "ann/kuro", storage=alone)
    assert modal.asked == ["commit"]
    modal.error = RuntimeError("there are open files")
    with pytest.raises(StorageError, match="cannot reload the Modal Volume 'claas-lor"):
        load_lora("ann/kuro", volume)


def test_without_modal_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    with pytest.raises(ConfigurationError, match="'modal' is not installed: pip inst"):
        ModalVolume("x")


def test_a_modal_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It reads its own settings when it is imported; its words are not repeated."""
    (tmp_path / "modal.py").write_text("raise ValueError('token-1234 is no TOML')")
    monkeypatch.delitem(sys.modules, "modal", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"not start \(ValueError\)") as caught:
        ModalVolume("x")
    assert "token-1234" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank is 0 and alpha 32.0: both must be above 0"),
        ({"alpha": 0.0}, "both must be above 0"),
        ({"target_modules": ("q_proj", "qkv")}, r"\['q_proj', 'qkv'\]: choose from q_"),
        ({"target_modules": ()}, "choose from q_proj"),
        (
            {"base": {**BASE, "model_type": "mamba"}},
            "of the type 'mamba' are not known",
        ),
        ({"base": {**BASE, "hidden_size": None}}, "does not say hidden_size"),
        ({"base": None, "base_model_name": "/"}, "'/' has no readable config.json"),
    ],
)
def test_what_cannot_be_made_is_refused(
    change: dict[str, Any], message: str, volume: LocalVolume
) -> None:
    options: Any = {
        "base_model_name": "tiny",
        "base": BASE,
        "storage": volume,
        **change,
    }
    with pytest.raises(ConfigurationError, match=message):
        create_initial_lora("ann/kuro", **options)
    assert list_loras(storage=volume) == []


def test_storage_needs_neither_torch_nor_transformers() -> None:
    """The command line lists adapters without them."""
    code = "import sys, claas.storage; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == b"set()"
