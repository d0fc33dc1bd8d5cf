"""Of buckets and limits: what no order of events may break."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from inf_engine.resources.bucket import TokenBucket
from inf_engine.resources.limits import RateLimits
from inf_engine.resources.pace import Sent
from inf_engine.types import Quota, RateHint

FEW = settings(max_examples=150, deadline=None)


@FEW
@given(
    st.floats(1, 1e5),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 50)), max_size=60),
)
def test_a_bucket_never_gives_more_than_capacity_and_refill(
    per_minute: float, capacity: float, wishes: list[tuple[float, float]]
) -> None:
    """In every stretch of time, whoever asks for what; one large one may overdraw."""
    bucket = TokenBucket(per_minute, 0.0, capacity)
    now, taken = 0.0, []
    for gap, amount in wishes:
        now = bucket.ready_at(amount, now + gap)
        assert bucket.ready_at(amount, now) <= now + 1e-6
        bucket.take(amount, now)
        taken.append((now, amount))
    for first in range(len(taken)):
        total = 0.0
        for at, amount in taken[first:]:
            allowed = capacity + (at - taken[first][0]) * per_minute / 60
            total += amount
            assert total <= allowed + max(0.0, amount - capacity) + 1e-3


QUOTAS = st.builds(
    Quota,
    st.one_of(st.none(), st.floats(1, 1e5)),
    st.one_of(st.none(), st.floats(0, 1e5)),
    st.one_of(st.none(), st.floats(0, 120)),
)
HINTS = st.one_of(st.none(), st.builds(RateHint, QUOTAS, QUOTAS, QUOTAS, QUOTAS))
EVENTS = st.tuples(
    st.sampled_from(["sent", "answered", "refused", "lost"]),
    st.floats(0, 10),
    st.integers(0, 20),
    HINTS,
    st.one_of(st.none(), st.floats(0, 30)),
)


@FEW
@given(
    st.one_of(st.none(), st.floats(1, 1e4)),
    st.one_of(st.none(), st.floats(1, 1e6)),
    st.lists(EVENTS, max_size=60),
)
def test_whatever_happens_there_is_a_time_to_go_on(
    requests: float | None, tokens: float | None, events: list
) -> None:
    """Never in the past; inf only while a probe is out; and one probe at a time."""
    limits = RateLimits(requests, tokens)
    now, out = 0.0, list[Sent]()
    for kind, gap, number, hint, retry_after in events:
        now += gap
        ready = limits.ready_at(number, number, now)
        assert ready >= now
        if kind == "sent":
            was_probing = limits.is_probing
            if ready < math.inf:
                now = ready
                out.append(limits.sent(number, number, now))
            if was_probing and limits.is_probing:
                assert limits.ready_at(1, 1, now) == math.inf
        elif out:
            sent = out.pop(number % len(out))
            if kind == "answered":
                limits.answered(sent, (number, 1), hint, now)
            elif kind == "refused":
                limits.refused(sent, retry_after, hint, now)
            else:
                limits.lost(sent)
    for sent in out:
        limits.answered(sent, None, None, now)
    assert limits.ready_at(1, 1, now) < math.inf
