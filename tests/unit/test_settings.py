"""`ExecutionSettings`: frozen, checked, and replaced by name."""

import dataclasses
import math
from typing import Any

import pytest

from inf_engine import ConfigurationError, ExecutionSettings


def test_the_defaults_limit_nothing() -> None:
    """No timeout, the endpoint's retries, the first failure raises."""
    assert ExecutionSettings() == ExecutionSettings(0, None, None, "raise", None)


def test_settings_are_frozen() -> None:
    """`replace` makes others."""
    settings = ExecutionSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.priority = 1  # ty: ignore[invalid-assignment]
    assert settings.replace(priority=-3, timeout=2) == ExecutionSettings(-3, 2)
    assert settings.replace() == settings


@pytest.mark.parametrize("name", ["timeout", "node_timeout"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "5", True])
def test_a_timeout_is_a_positive_number_of_seconds(name: str, value: Any) -> None:
    """Or None."""
    with pytest.raises(ConfigurationError, match=f"^{name} must be a positive number"):
        ExecutionSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("priority", 1.5, "priority must be an int, not 1.5"),
        ("priority", True, "priority must be an int, not True"),
        ("errors", None, "errors must be 'raise' or 'collect', not None"),
        ("retries", -1, "retries must be an int ≥ 0, a RetryPolicy, or None for"),
        ("retries", False, "retries must be an int"),
    ],
)
def test_wrong_values_say_what_they_may_be(name: str, value: Any, message: str) -> None:
    """Each names itself."""
    with pytest.raises(ConfigurationError, match=message):
        ExecutionSettings(**{name: value})
    with pytest.raises(ConfigurationError, match=message):
        ExecutionSettings().replace(**{name: value})


def test_an_unknown_name_lists_the_known_ones() -> None:
    """And the closest."""
    with pytest.raises(
        ConfigurationError, match=r"unknown setting 'time_out'.*did you mean 'timeout'"
    ):
        ExecutionSettings().replace(time_out=5)
