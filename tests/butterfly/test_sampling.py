"""Sampling: a function of logits, settings, seed and position."""

import dataclasses
import math
import zlib
from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from butterfly.communication.frames import Sampling, Segment  # noqa: E402
from butterfly.engine.memory import Memory  # noqa: E402
from butterfly.engine.sampling import (  # noqa: E402
    draw,
    pack,
    sampled,
    uniform,
    unpack,
    wanted,
)

LOGITS = torch.tensor([0.6, 0.3, 0.06, 0.04]).log()


def drawn(count: int = 4000, **settings: Any) -> dict[int, float]:
    """Return how often each token is drawn."""
    how = dataclasses.replace(Sampling(temperature=1.0, seed=5), **settings)
    seen = Counter(draw(LOGITS, how, position) for position in range(count))
    return {token: seen[token] / count for token in range(4) if seen[token]}


def test_tokens_come_as_often_as_they_are_probable() -> None:
    """Within what chance allows at 4,000 draws."""
    found = drawn()
    for token, chance in enumerate(LOGITS.exp().tolist()):
        assert found[token] == pytest.approx(chance, abs=4 * math.sqrt(0.25 / 4000))


def test_settings_leave_tokens_out() -> None:
    """top_k by number, top_p by probability, min_p by share of the best one's."""
    assert list(drawn(top_k=2)) == [0, 1]
    assert list(drawn(top_p=0.55)) == [0]
    assert list(drawn(top_p=0.65)) == [0, 1]
    assert list(drawn(min_p=0.2)) == [0, 1]
    assert list(drawn(temperature=0.0)) == [0]
    assert drawn(temperature=0.5)[0] > drawn()[0]


def test_settings_apply_one_after_the_other() -> None:
    """Each to what the one before left, as in vLLM: 0.6 of 0.9 is two thirds."""
    assert list(drawn(top_k=2, top_p=0.65)) == [0]
    assert list(drawn(top_k=2, top_p=0.67)) == [0, 1]
    assert list(drawn(min_p=0.2, top_p=0.65)) == [0]


def test_chance_is_a_function_of_seed_and_position() -> None:
    """So a sequence that is run again draws the same."""
    how = Sampling(temperature=1.0, seed=9)
    first = [draw(LOGITS, how, k) for k in range(50)]
    assert first == [draw(LOGITS, how, k) for k in range(50)]
    assert first != [draw(LOGITS, Sampling(1.0, seed=10), k) for k in range(50)]
    assert uniform(2**64 - 1, 3) == uniform(2**64 - 1, 3) != uniform(2**64 - 1, 4)


def test_only_allowed_tokens_are_drawn() -> None:
    """As bits, deflated; greedy or not."""
    bits = np.packbits(np.array([0, 0, 1, 1], np.uint8), bitorder="little")
    allowed = zlib.compress(bits.tobytes())
    for temperature in (0.0, 1.0):
        how = Sampling(temperature=temperature, seed=1)
        parts = [Segment(0, k, 1, sampling=how, allowed=allowed) for k in range(40)]
        found = sampled(LOGITS.expand(40, 4), parts, Memory())
        assert {one.token for one in found} <= {2, 3}


def test_log_probabilities_come_with_what_was_asked() -> None:
    """Of the token, of the best ones, and of the prompt's own tokens."""
    how = Sampling(top_logprobs=2)
    parts = [
        Segment(0, 0, 3, sampling=how, targets=(1, 3, -1)),
        Segment(1, 5, 1),
        Segment(2, 0, 2, is_sampled=False),
        Segment(3, 0, 1, is_sampled=False, targets=(2,)),
    ]
    assert wanted(parts) == [0, 1, 2, 3, 6]
    found = sampled(LOGITS.expand(5, 4), parts, Memory())
    assert [one.lane for one in found] == [0, 1, 3]
    first, second, third = found
    assert first.token == second.token == 0 and third.token is None
    assert second.logprob is None and first.logprob is not None
    assert [t for t, _ in first.logprob.top] == [0, 1]
    assert first.logprob.logprob == pytest.approx(math.log(0.6))
    ranks = [None if told is None else told.rank for told in first.prompt]
    assert ranks == [2, 4, None]
    assert third.prompt[0] is not None and third.prompt[0].token == 2
    back = unpack(pack(found), parts)
    assert [one.token for one in back] == [0, 0, None]
    assert back[0].prompt[1] is not None and back[0].prompt[1].rank == 4
    assert back[0].logprob == first.logprob
