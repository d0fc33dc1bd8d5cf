"""A base model by its name on the Hub, without a network."""

from pathlib import Path

import pytest

from claas.errors import ConfigurationError
from claas.hub import hub_folder, is_hub_name
from claas.peft_files import base_config

NAME, REVISION = "org/some-model", "0123456789abcdef0123456789abcdef01234567"
pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the Hub's cache has of one model, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--org--some-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    (folder / "refs" / "v2").write_text(REVISION)
    found = folder / "snapshots" / REVISION
    found.mkdir(parents=True)
    (found / "config.json").write_text('{"model_type": "llama"}')
    return found


@pytest.mark.parametrize("name", [NAME, f"{NAME}@v2", f"{NAME}@{REVISION}"])
def test_what_the_cache_has_is_found_offline(name: str, snapshot: Path) -> None:
    """The newest, a branch or tag, or a commit; the config alone, too."""
    assert is_hub_name(name)
    assert hub_folder(name) == snapshot
    assert base_config(name) == {"model_type": "llama"}


@pytest.mark.parametrize("name", ["org/other", f"{NAME}@v3"])
def test_what_it_has_not_is_an_error_that_says_where_it_was_looked_for(
    name: str,
) -> None:
    """With the fix for each reason."""
    for asked in (hub_folder, base_config):
        with pytest.raises(ConfigurationError, match="neither a folder nor") as caught:
            asked(name)
        assert repr(name) in str(caught.value) and "HF_HOME" in str(caught.value)


def test_what_is_here_is_no_name_of_the_hub(tmp_path: Path) -> None:
    """Nor is a path, or a single word."""
    (tmp_path / "org" / "here").mkdir(parents=True)
    for path in ("org/here", "/org/some", "a/b/c", "smollm2", "~/model", "", "a/b@"):
        assert not is_hub_name(path)
