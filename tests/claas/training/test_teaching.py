"""What the worker's process is made of, out of the settings."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest

from claas.base import Base
from claas.config import GateSettings, Settings, TrainingSettings, read_settings
from claas.errors import ConfigurationError
from claas.gate import Gate, GateLimits
from claas.learner import Learner, LearnSettings
from claas.teacher import TeachSettings
from claas.web.teaching import teaching_of
from claas.web.workshop import settled


@dataclass
class Loaded:
    """What stands for the base model."""

    name: str
    told: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def _nothing_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Base, "load", lambda model, **told: Loaded(model, told))


def made_of(settings: Settings) -> tuple[Learner, Gate]:
    """Return the learner and the gate."""
    made = teaching_of(settings)
    assert isinstance(made.learner, Learner) and isinstance(made.gate, Gate)
    return made.learner, made.gate


def test_what_nobody_names_is_the_trainers_own_default() -> None:
    """The defaults of the settings are those of the learner and the gate."""
    learner, gate = made_of(read_settings(base_model="tiny"))
    assert learner.settings == LearnSettings()
    assert learner.teaching == TeachSettings()
    assert gate.settings == GateLimits()
    assert learner.base is gate.base


def test_every_setting_of_training_and_gate_arrives() -> None:
    """None is left out, and the base is loaded as told."""
    theirs = {one.name for one in fields(LearnSettings)}
    mine = set(TrainingSettings.model_fields) - {"rank", "scale", "lessons", "probes"}
    assert mine == theirs
    gated = {one.name for one in fields(GateLimits)} - {"capabilities"}
    assert set(GateSettings.model_fields) == gated
    learner, gate = made_of(
        read_settings(
            **{"base_model": "tiny", "device": "cuda:1", "dtype": "bfloat16"},
            **{"threads": 3, "teaching": {"samples": 7}},
            training={"lr": 0.5, "anchor_prompts": ("a",)},
            gate={"gain": 0.25, "unrelated": ("b", "c")},
        )
    )
    assert (learner.settings.lr, gate.settings.gain) == (0.5, 0.25)
    assert learner.settings.anchor_prompts == ("a",)
    assert gate.settings.unrelated == ("b", "c")
    assert learner.teaching.samples == 7
    told = {"device": "cuda:1", "dtype": "bfloat16", "threads": 3}
    assert vars(learner.base)["told"] == told


def test_a_base_model_that_is_not_there_is_refused_at_the_start() -> None:
    """Not with the first update; a folder is taken as it is."""
    with pytest.raises(ConfigurationError, match="there is no model 'nowhere'"):
        settled(read_settings(base_model="nowhere"))
    given: Settings = read_settings(base_model=".")
    assert settled(given) is given
