"""Settings: where they come from, and which are refused."""

from pathlib import Path
from typing import Any

import pytest

from claas.config import Settings, read_settings
from claas.errors import ConfigurationError

KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a file."""
    monkeypatch.chdir(tmp_path)


def test_arguments_come_before_the_environment_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place may name a part; what nobody names has its default."""
    (tmp_path / "claas.toml").write_text(
        f'host = "file"\nport = 1\nbase_model = "file"\n[users]\nann = "{KEY}"\n'
        "[training]\nrank = 3\nlr = 0.5\n[gate]\ngain = 0.25\n"
    )
    monkeypatch.setenv("CLAAS_PORT", "2")
    monkeypatch.setenv("CLAAS_BASE_MODEL", "environment")
    monkeypatch.setenv("CLAAS_TRAINING__LR", "0.25")
    found = read_settings(base_model="argument")
    assert (found.host, found.port, found.base_model) == ("file", 2, "argument")
    assert (found.training.rank, found.training.lr) == (3, 0.25)
    assert found.training.alpha == 0.5 and found.gate.gain == 0.25
    assert found.users["ann"].get_secret_value() == KEY
    assert KEY not in repr(found) + str(found)


def test_the_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or environment; one that is not there is an error."""
    other = tmp_path / "other.toml"
    other.write_text("port = 7")
    assert read_settings(config=other).port == 7
    monkeypatch.setenv("CLAAS_CONFIG", str(other))
    assert read_settings().port == 7
    monkeypatch.setenv("CLAAS_CONFIG", "missing.toml")
    with pytest.raises(ConfigurationError, match="there is no file 'missing.toml'"):
        read_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "prot: Extra inputs are not permitted"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ("[training]\nalpha = 2", "training.alpha: Input should be less"),
        ("[limits]\nbody = 0", "limits.body: Input should be greater than 0"),
        ('[users]\nAnn = "0123456789abcdef"', "'Ann' cannot be the name of a user"),
        ('[users]\nann = "short-secret"', "the key of 'ann' is shorter than 16"),
        (
            '[users]\na = "0123456789abcdef"\nb = "0123456789abcdef"',
            "two users have the same key",
        ),
        ("port = ", "the settings cannot be read"),
        ("[training]\nanchor_prompts = []", "training.anchor_prompts: Tuple should"),
        (
            '[[gate.capabilities]]\nprompt = "a"',
            "gate.capabilities.0: a question needs 'answers' or a 'pattern'",
        ),
        (
            '[[gate.capabilities]]\nprompt = "a"\npattern = "("',
            "gate.capabilities.0.pattern: it is no regular expression",
        ),
        ('[hints.x.blame]\ntext = "{content}"', "hints.x.blame.[key]: Input should be"),
        ('[hints.x.judge]\ntext = "be kind"', "for judge has no {content}"),
        ('[hints.x.judge]\ntxt = "{content}"', "hints.x.judge.txt: Unexpected"),
        ('[teacher]\nurl = "http://x"', "teacher: a teacher elsewhere needs both"),
        (
            '[teacher]\nurl = "http://x"\nmodel = "m"\nkind = "ema"',
            "teacher: 'kind' is of the base model",
        ),
    ],
)
def test_what_does_not_fit_is_named_without_its_value(
    tmp_path: Path, text: str, said: str
) -> None:
    """The setting and the fix, never a key."""
    (tmp_path / "claas.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value) and "0123456789" not in str(caught.value)


def test_a_table_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it is said so, and the value is not."""
    monkeypatch.setenv("CLAAS_USERS", f'{{"ann": "{KEY}"}}')
    assert list(read_settings().users) == ["ann"]
    monkeypatch.setenv("CLAAS_USERS", f"ann={KEY}")
    with pytest.raises(ConfigurationError, match="written as JSON") as caught:
        read_settings()
    assert KEY not in str(caught.value)


def test_paths_are_absolute(tmp_path: Path) -> None:
    """The inference server has another working folder."""
    found = read_settings(storage="loras")
    assert found.storage == tmp_path / "loras"
    assert found.database_path == tmp_path / "loras" / "claas.sqlite3"


def test_every_setting_is_documented() -> None:
    """Each field of each table has a line under Args."""
    names = ("limits", "training", "teaching", "teacher", "gate", "ratings")
    tables: list[Any] = [type(getattr(read_settings(), name)) for name in names]
    for table in [*tables, Settings]:
        docs = "".join(one.__doc__ or "" for one in table.__mro__[:2])
        known = getattr(table, "model_fields", None)
        for name in known or getattr(table, "__dataclass_fields__", ()):
            assert f"        {name}: " in docs, name
