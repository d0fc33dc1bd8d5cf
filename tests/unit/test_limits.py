"""`RateLimits`: against virtual servers that count, in a tiny event loop."""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from inf_engine.resources.limits import FIRST_FLIGHT, RateLimits
from inf_engine.resources.pace import FIRST_PAUSE, Sent
from inf_engine.types import Quota, RateHint

LATENCY = 0.05
UP = 0.02


@dataclass
class Server:
    """A pure token bucket of requests, and one of tokens if asked for."""

    rate: float = 20.0
    capacity: float = 20.0
    hints: bool = True
    per_request: float = 0.0
    token_rate: float = math.inf
    level: float = field(init=False)
    tokens: float = field(init=False)
    at: float = 0.0
    accepted: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.level = self.capacity
        self.tokens = self.token_rate

    def asked(self, now: float) -> tuple[bool, RateHint | None, float]:
        """Take a request: whether it is answered, the headers, retry-after."""
        gone, self.at = now - self.at, now
        self.level = min(self.capacity, self.level + gone * self.rate)
        if self.per_request:
            there = self.tokens + gone * self.token_rate
            self.tokens = min(self.token_rate, there)
        is_there = self.level >= 1 - 1e-9 and self.tokens >= self.per_request - 1e-6
        if is_there:
            self.level -= 1
            self.tokens -= self.per_request
            self.accepted += 1
        else:
            self.refused += 1
        retry_after = max(0.0, 1 - self.level) / self.rate
        return is_there, self._hint(), max(retry_after, 0.001)

    def _hint(self) -> RateHint | None:
        if not self.hints:
            return None
        reset = (self.capacity - self.level) / self.rate
        return RateHint(requests=Quota(self.rate * 60, int(self.level), reset))


@dataclass
class Window:
    """A fixed window: so many a minute, all of them back at its end."""

    limit: int = 60
    offset: float = 0.0
    used: int = 0
    number: int = 0
    refused: int = 0

    def asked(self, now: float) -> tuple[bool, RateHint | None, float]:
        """Take a request: whether it is answered, the headers, retry-after."""
        number = int((now + self.offset) // 60)
        if number != self.number:
            self.number, self.used = number, 0
        is_there = self.used < self.limit
        self.used += is_there
        self.refused += not is_there
        reset = (number + 1) * 60 - self.offset - now
        quota = Quota(self.limit, self.limit - self.used, reset)
        return is_there, RateHint(requests=quota), reset


@dataclass
class Outcome:
    """What a simulation shows."""

    wall: float = 0.0
    refused: int = 0
    episodes: int = 0
    most_probes: int = 0


Asked = Callable[[float], tuple[bool, RateHint | None, float]]


class Simulation:
    """A loop of events: requests leave, arrive at the server, and end."""

    def __init__(
        self, limits: RateLimits, asked: Asked, calls: int, tokens: int, slots: int
    ) -> None:
        self.limits, self.asked = limits, asked
        self.todo, self.tokens, self.slots = calls, tokens, slots
        self.out = Outcome()
        self.in_flight = self.probes = 0
        self.waking = math.inf
        self.numbers = itertools.count()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []

    def run(self) -> Outcome:
        """Run until all are answered."""
        self.pump(0.0)
        while self.events:
            now, _, do = heapq.heappop(self.events)
            do(now)
            self.pump(now)
        assert self.todo == 0
        return self.out

    def at(self, when: float, do: Callable[[float], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self.events, (when, next(self.numbers), do))

    def pump(self, now: float) -> None:
        """Let leave who may, and wake up when the next one may."""
        if now >= self.waking:
            self.waking = math.inf
        while self.todo and self.in_flight < self.slots:
            ready = self.limits.ready_at(self.tokens, 0, now)
            if ready <= now:
                self.leave(now)
                continue
            if ready < self.waking:
                self.waking = ready
                self.at(ready, lambda now: None)
            return

    def leave(self, now: float) -> None:
        """Send one."""
        self.todo, self.in_flight = self.todo - 1, self.in_flight + 1
        self.probes += self.limits.is_probing
        sent = self.limits.sent(self.tokens, 0, now)
        self.at(now + UP, lambda now: self.arrive(sent, now))

    def arrive(self, sent: Sent, now: float) -> None:
        """Have the server answer or refuse it."""
        answer = self.asked(now)
        self.at(now + LATENCY - UP, lambda now: self.end(sent, answer, now))

    def end(
        self, sent: Sent, answer: tuple[bool, RateHint | None, float], now: float
    ) -> None:
        """Take note of how it ended."""
        is_there, hint, wait = answer
        self.in_flight -= 1
        self.out.wall = now
        before = self.limits.paused_until
        if is_there:
            self.limits.answered(sent, (self.tokens, 0), hint, now)
        else:
            self.out.refused += 1
            self.todo += 1
            self.limits.refused(sent, wait, hint, now)
        if self.limits.paused_until != before:
            self.out.episodes += not is_there
            self.out.most_probes = max(self.out.most_probes, self.probes)
            self.probes = 0


def simulate(
    limits: RateLimits,
    asked: Asked,
    calls: int,
    tokens: int = 0,
    slots: int = 10_000,
) -> Outcome:
    """Send `calls` requests through the limits, refused ones again, until all are."""
    return Simulation(limits, asked, calls, tokens, slots).run()


def test_an_unknown_limit_is_learnt_from_headers_and_used_to_the_last() -> None:
    """1,200 a minute, 20 at once, 200 calls: the bound is 9 s."""
    server = Server()
    out = simulate(RateLimits(None, None, FIRST_FLIGHT), server.asked, 200)
    assert server.accepted == 200
    assert out.wall <= 1.05 * 9.0
    assert out.refused <= 0.02 * 200


@pytest.mark.parametrize("first", [FIRST_FLIGHT, None])
@pytest.mark.parametrize("slots", [20, 100, 10_000])
def test_without_headers_the_rate_is_found_by_refusals(
    first: int | None, slots: int
) -> None:
    """No stampede: one probe per pause; and a rate is found that is near the bound."""
    server = Server(hints=False)
    out = simulate(RateLimits(None, None, first), server.asked, 200, slots=slots)
    assert server.accepted == 200
    assert out.most_probes == 1
    assert out.wall <= 1.6 * 9.0


def test_configured_limits_are_used_and_kept() -> None:
    """10,000 requests at both limits of the server, either being the tighter one."""
    for per_request, bound in ((90.0, 10_000 / 20), (110.0, 11e5 / 2000)):
        server = Server(hints=False, per_request=per_request, token_rate=2000.0)
        limits = RateLimits(1200, 120_000)
        out = simulate(limits, server.asked, 10_000, int(per_request))
        assert out.refused < 0.005 * 10_000
        assert out.wall <= bound / 0.97


def test_configured_limits_with_headers_are_used_and_kept() -> None:
    """The same with a server that tells."""
    server = Server()
    out = simulate(RateLimits(1200, None), server.asked, 2_000)
    assert out.refused < 0.005 * 2_000
    assert out.wall <= 2_000 / 20 / 0.97


@pytest.mark.parametrize("offset", [0.0, 20.0, 55.0])
def test_a_fixed_window_is_not_overrun_and_not_left_unused(offset: float) -> None:
    """300 calls at 60 a minute: the first window, and one after the other."""
    server = Window(offset=offset)
    out = simulate(RateLimits(None, None, FIRST_FLIGHT), server.asked, 300)
    assert server.refused == 0
    assert out.wall <= 240 - offset + 1


def requests(limit: float, remaining: float, reset: float) -> RateHint:
    """Return headers about requests."""
    return RateHint(requests=Quota(limit, remaining, reset))


def test_nothing_known_is_unlimited() -> None:
    """No limit, no hint: whatever is asked for may go."""
    limits = RateLimits(None, None)
    for _ in range(1000):
        assert limits.ready_at(10**6, 10**6, 5.0) == 5.0
        limits.sent(10**6, 10**6, 5.0)
    assert limits.requests_per_minute is None
    assert limits.paused_until is None


def test_a_first_flight_waits_for_the_first_answer() -> None:
    """Three at once, three a second; all may go once one is answered."""
    limits = RateLimits(None, None, first_flight=3)
    sent = [limits.sent(0, 0, 1.0) for _ in range(3)]
    assert limits.ready_at(0, 0, 1.0) == pytest.approx(4 / 3)
    limits.answered(sent[0], None, None, 1.1)
    assert limits.ready_at(0, 0, 1.1) == 1.1


def test_a_refusal_pauses_and_one_request_probes() -> None:
    """Nothing before retry-after, one after it, all after its answer."""
    limits = RateLimits(None, None)
    first = limits.sent(0, 0, 0.0)
    limits.refused(first, 2.0, None, 1.0)
    assert (limits.is_probing, limits.paused_until) == (True, 3.0)
    assert limits.ready_at(0, 0, 1.5) == 3.0
    probe = limits.sent(0, 0, 3.0)
    assert limits.ready_at(0, 0, 3.0) == math.inf
    limits.answered(probe, None, None, 3.5)
    assert not limits.is_probing
    assert limits.ready_at(0, 0, 3.5) == 3.5


def test_refusals_of_what_was_on_its_way_do_not_lengthen_the_pause() -> None:
    """One episode, however many come, and whatever they ask for."""
    limits = RateLimits(None, None)
    sent = [limits.sent(0, 0, 0.0) for _ in range(100)]
    for number, each in enumerate(sent):
        limits.refused(each, 1.0, None, 1.0 + number / 100)
    assert limits.paused_until == 2.0


def test_answers_of_what_was_on_its_way_do_not_end_a_named_pause() -> None:
    """They were let in before the refusal."""
    limits = RateLimits(None, None)
    early, late = limits.sent(0, 0, 0.0), limits.sent(0, 0, 0.0)
    limits.refused(late, 1.0, None, 0.1)
    limits.answered(early, None, None, 0.2)
    assert limits.ready_at(0, 0, 0.2) == 1.1


def test_a_pause_that_nobody_named_doubles_with_every_refused_probe() -> None:
    """Up to half a minute."""
    limits = RateLimits(None, None)
    now, pauses = 0.0, []
    for _ in range(14):
        sent = limits.sent(0, 0, now)
        limits.refused(sent, None, None, now)
        assert limits.paused_until is not None
        pauses.append(limits.paused_until - now)
        now = limits.paused_until
    assert pauses[:4] == pytest.approx([FIRST_PAUSE * 2**n for n in range(4)])
    assert pauses[-1] == 30.0


def test_where_most_are_answered_an_unnamed_pause_needs_no_probe() -> None:
    """A server that takes forty at once refuses the forty-first: no rate is known."""
    limits = RateLimits(None, None)
    sent = [limits.sent(0, 0, 0.0) for _ in range(60)]
    for each in sent[40:]:
        limits.refused(each, None, None, 0.01)
    for each in sent[:20]:
        limits.answered(each, None, None, 0.02)
    assert limits.ready_at(0, 0, 0.02) == pytest.approx(0.01 + FIRST_PAUSE)
    limits.sent(0, 0, 0.05)
    assert not limits.is_probing


def test_a_few_refusals_in_a_crowd_pause_nothing() -> None:
    """One in forty is a matter of the window; a quarter is one of the rate."""
    limits = RateLimits(None, None)
    sent = [limits.sent(0, 0, 0.0) for _ in range(41)]
    limits.refused(sent[40], None, None, 0.01)
    assert limits.ready_at(0, 0, 0.01) == 0.01
    for each in sent[30:40]:
        limits.refused(each, None, None, 0.01)
    assert limits.ready_at(0, 0, 0.01) == pytest.approx(0.01 + FIRST_PAUSE)


def test_where_nothing_was_known_the_first_crowd_pauses_nothing() -> None:
    """24 of 64 are refused: that is slow start; the window is the remedy."""
    limits = RateLimits(None, None, FIRST_FLIGHT)
    limits.answered(limits.sent(0, 0, 0.0), None, None, 0.0)
    sent = [limits.sent(0, 0, 0.0) for _ in range(64)]
    for each in sent[40:]:
        limits.refused(each, None, None, 0.01)
    assert limits.ready_at(0, 0, 0.01) == 0.01
    for each in sent[20:40]:
        limits.refused(each, None, None, 0.01)
    assert limits.ready_at(0, 0, 0.01) == pytest.approx(0.01 + FIRST_PAUSE)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slots", [1, 2])
def test_a_pace_learnt_from_chance_is_forgotten(slots: int, seed: int) -> None:
    """One in five is refused, at whatever pace: none is kept to for long."""
    rng = random.Random(seed)
    limits = RateLimits(None, None)
    paces = list[float | None]()
    fastest = slots / LATENCY

    def asked(now: float) -> tuple[bool, RateHint | None, float]:
        paces.append(limits.requests_per_minute)
        return rng.random() >= 0.2, None, 0.0

    out = simulate(limits, asked, 1000, slots=slots)
    assert paces.count(None) >= 0.25 * len(paces)
    assert out.wall <= 2.5 * len(paces) / fastest


def test_a_refusal_that_names_a_time_pauses_also_in_a_crowd() -> None:
    """The endpoint has said so."""
    limits = RateLimits(None, None)
    sent = [limits.sent(0, 0, 0.0) for _ in range(41)]
    limits.refused(sent[40], 2.0, None, 0.01)
    assert limits.ready_at(0, 0, 0.01) == pytest.approx(2.01)


def test_a_lost_probe_is_followed_by_another() -> None:
    """Cancelled, say: its answer will never come."""
    limits = RateLimits(None, None)
    limits.refused(limits.sent(0, 0, 0.0), 1.0, None, 0.0)
    probe = limits.sent(0, 0, 1.0)
    limits.lost(probe)
    assert limits.ready_at(0, 0, 1.5) == 1.5
    assert limits.is_probing


def test_patience_ends_the_probing_without_an_answer() -> None:
    """A long answer is not a refusal."""
    limits = RateLimits(None, None, patience=2.0)
    limits.refused(limits.sent(0, 0, 0.0), 1.0, None, 0.0)
    limits.sent(0, 0, 1.0)
    assert limits.ready_at(0, 0, 1.5) == 3.0
    limits.sent(0, 0, 3.0)
    assert not limits.is_probing


def test_the_reset_of_a_spent_limit_is_the_pause() -> None:
    """Where there is no retry-after."""
    limits = RateLimits(None, None)
    sent = limits.sent(0, 0, 0.0)
    limits.refused(sent, None, requests(60, 0, 20.0), 1.0)
    assert limits.paused_until == 21.0


def test_estimates_are_corrected_by_what_was_used() -> None:
    """600 a minute is 10 a second: what was not used may be sent at once."""
    limits = RateLimits(None, 600)
    sent = limits.sent(50, 50, 0.0)
    waiting = limits.ready_at(1, 0, 0.0)
    limits.answered(sent, (1, 1), None, 0.0)
    assert waiting == pytest.approx(9.85)
    assert limits.ready_at(1, 0, 0.0) < waiting - 9


def test_an_unknown_use_leaves_the_estimate_booked() -> None:
    """It may have been used."""
    limits = RateLimits(None, 600)
    sent = limits.sent(50, 50, 0.0)
    waiting = limits.ready_at(1, 0, 0.0)
    limits.answered(sent, None, None, 0.0)
    assert limits.ready_at(1, 0, 0.0) == waiting


def test_a_refused_request_gets_its_tokens_back() -> None:
    """It was not answered."""
    limits = RateLimits(None, 600)
    limits.refused(limits.sent(50, 50, 0.0), 1.0, None, 0.0)
    assert limits.ready_at(1, 0, 1.0) == 1.0


@pytest.mark.parametrize("which", ["input_tokens", "output_tokens", "tokens"])
def test_limits_of_tokens_are_learnt_of_each_kind(which: str) -> None:
    """Of input, of output, and of both."""
    limits = RateLimits(None, None)
    sent = limits.sent(10, 10, 0.0)
    hint = RateHint(**{which: Quota(6000, 0, 7.0)})
    limits.answered(sent, (10, 10), hint, 1.0)
    assert limits.ready_at(10, 10, 1.0) == 8.0


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_limit_of_nothing_is_refused(name: str, value: float) -> None:
    """It would wait for ever."""
    given = {"requests_per_minute": None, "tokens_per_minute": None, name: value}
    with pytest.raises(ValueError, match=f"{name} is .* lets nothing through"):
        RateLimits(given["requests_per_minute"], given["tokens_per_minute"])


def test_headers_that_do_not_explain_a_refusal_do_not_hide_the_rate() -> None:
    """1,200 of 1,200 left, and yet no more than 20 at once."""
    server = Server()

    def asked(now: float) -> tuple[bool, RateHint | None, float]:
        is_there, _, wait = server.asked(now)
        return is_there, requests(1200, 1180, 1.0), wait

    out = simulate(RateLimits(None, None), asked, 400, slots=50)
    assert out.wall <= 1.1 * 19.0
    assert out.most_probes == 1
