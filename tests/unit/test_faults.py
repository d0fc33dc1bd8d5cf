"""`chaos`: which requests to the loopback server go wrong, and how."""

from collections import Counter

import pytest

from inf_engine.errors import UsageError
from inf_engine.testing import chaos
from inf_engine.testing.faults import ALL_CHAOS, FAULTS, Fault


def test_chaos_is_the_same_for_a_seed() -> None:
    """A share of the requests goes wrong, in all ways, and again the same."""
    faults = [chaos(7)(index, {}) for index in range(5000)]
    assert faults == [chaos(7)(index, {"other": 1}) for index in range(5000)]
    assert faults != [chaos(8)(index, {}) for index in range(5000)]
    drawn = Counter(fault for fault in faults if fault is not None)
    assert 900 < drawn.total() < 1100
    assert set(drawn) == set(ALL_CHAOS) >= set(FAULTS)
    assert {chaos(1, 1.0, [500])(index, {}) for index in range(20)} == {500}


@pytest.mark.parametrize(
    ("share", "faults", "message"),
    [
        (1.5, [500], r"share=1.5: give a share from 0 to 1"),
        (0.5, [], "chaos without faults: name at least one"),
        (0.5, ["explode"], "no fault 'explode'; known: reset"),
    ],
)
def test_senseless_chaos_is_refused(
    share: float, faults: list[Fault], message: str
) -> None:
    """A share is a probability, and the faults exist."""
    with pytest.raises(UsageError, match=message):
        chaos(0, share, faults)
