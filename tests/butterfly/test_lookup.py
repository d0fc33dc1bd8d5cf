"""What is guessed: tokens that followed the newest ones before."""

from collections.abc import Sequence as Items

import pytest

pytest.importorskip("numpy")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from butterfly.scheduling.lookup import Lookup  # noqa: E402


def guess(said: Items[int], most: int = 4, trust: int = 99) -> list[int]:
    """Return the draft after some tokens."""
    lookup = Lookup()
    lookup.read_on(said)
    lookup.trust = trust
    return lookup.draft(most)


def test_a_draft_is_what_followed_last_time() -> None:
    """After as many of the newest tokens as there are, at least two."""
    assert guess([1, 2, 3, 9, 8, 7, 6, 5, 2, 3]) == [9, 8, 7, 6]
    assert guess([1, 2, 3, 9, 1, 2, 3, 8, 0, 1, 2, 3]) == [8, 0, 1, 2]
    assert guess([4, 2, 3, 9, 1, 2, 3, 8, 4, 2, 3]) == [9, 1, 2, 3]
    assert guess([1, 2, 3, 9, 0, 3]) == guess([1]) == guess([]) == []
    assert guess([1, 2, 3, 1, 2], most=0) == []


def test_what_repeats_goes_on_repeating() -> None:
    """A draft may be longer than what followed."""
    assert guess([5, 1, 2, 1, 2], most=5) == [1, 2, 1, 2, 1]
    assert guess([7, 7, 7], most=3) == [7, 7, 7]


def test_tokens_are_not_found_across_their_bytes() -> None:
    """0x01000000 0x02000000 has the bytes of another token in the middle."""
    assert guess([256, 512, 0, 9, 1, 2], most=1) == []
    assert guess([1, 2, 50, 256, 512, 0, 1, 2], most=1) == [50]


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 9))
def test_a_draft_is_what_a_plain_search_finds(said: list[int], most: int) -> None:
    """From the longest run of tokens down, from the newest place back."""
    expected: list[int] = []
    for size in (2, 3, 4):
        for place in range(len(said) - size):
            if said[place : place + size] == said[-size:]:
                after = said[place + size :]
                expected = [after[k % len(after)] for k in range(most)]
    assert guess(said, most) == expected


def test_what_came_true_decides_how_long_the_next_one_is() -> None:
    """All of it doubles, a mistake is the new measure; a short one teaches nothing."""
    lookup = Lookup()
    seen = []
    for proposed, accepted in ((1, 1), (2, 2), (1, 1), (4, 2), (3, 0)):
        lookup.learn(proposed, accepted)
        seen.append(lookup.trust)
    assert seen == [2, 4, 4, 3, 1]
