"""`quick`: a frozen dataclass that is made faster, and is what it was otherwise."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from inf_engine.quick import quick


@dataclass(frozen=True, slots=True)
class Slow:
    """As dataclasses makes it."""

    name: str
    size: int = 3
    parts: list[int] = field(default_factory=list)
    hidden: str | None = field(default=None, repr=False, compare=False)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    """The same, quick."""

    name: str
    size: int = 3
    parts: list[int] = field(default_factory=list)
    hidden: str | None = field(default=None, repr=False, compare=False)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("a",), {}),
        (("a", 4), {}),
        (("a",), {"parts": [1], "hidden": "h"}),
        ((), {"size": 0, "name": "b"}),
        (("a", 1, [2], None), {}),
    ],
)
def test_it_takes_what_the_slow_one_takes(given: Any, named: Any) -> None:
    slow, ours = Slow(*given, **named), Quick(*given, **named)
    for name in ("name", "size", "parts", "hidden"):
        assert getattr(slow, name) == getattr(ours, name)
    assert repr(ours) == repr(slow).replace("Slow", "Quick")


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), (("a", 1, [], None, 5), {}), (("a",), {"x": 1}), (("a",), {"name": 1})],
)
def test_it_refuses_what_the_slow_one_refuses(given: Any, named: Any) -> None:
    with pytest.raises(TypeError) as slow:
        Slow(*given, **named)
    with pytest.raises(TypeError) as ours:
        Quick(*given, **named)
    assert str(ours.value) == str(slow.value).replace("Slow", "Quick")


def test_a_default_is_made_anew_each_time() -> None:
    assert Quick("a").parts is not Quick("a").parts


def test_it_stays_frozen_and_equal_and_can_be_copied() -> None:
    one = Quick("a", 4)
    with pytest.raises(FrozenInstanceError):
        one.name = "b"  # ty: ignore[invalid-assignment]
    assert one == Quick("a", 4) != Quick("a", 5)
    assert replace(one, size=5) == Quick("a", 5)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def test_its_signature_is_the_slow_ones() -> None:
    assert str(inspect.signature(Quick)) == str(inspect.signature(Slow))
