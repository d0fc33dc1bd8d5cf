"""Slots that several processes share: never more in use than there are."""

from hypothesis import given, settings
from hypothesis import strategies as st

from inf_engine.resources.lease import LEASE_SECONDS, Ask, Grant, Lease, Terms
from inf_engine.scale.lease_book import LeaseBook

SLOTS, TIMEOUT = 6, 5.0
MOMENTS = [["ask", "heard", "answer"], ["ask", "heard"], ["ask"], ["heard"], ["answer"]]
STEPS = st.tuples(
    st.integers(0, 2),  # who
    st.sampled_from([*MOMENTS, ["ask", "heard", "answer", "send"], ["send"], ["end"]]),
    st.sampled_from([0.0, 0.0, 0.1, 3.0, LEASE_SECONDS + TIMEOUT + 1]),
)


class Holder:
    """A process that asks, sends and is slow; its requests end within `TIMEOUT`."""

    def __init__(self, number: int) -> None:
        self.name = f"actor-{number}"
        self.lease = Lease(Terms(SLOTS, None, None, TIMEOUT), lambda: None)
        self.sent: list[float] = []
        self.asked: tuple[float, Ask] | None = None
        self.grant: Grant | None = None

    def step(self, what: str, book: LeaseBook, now: float) -> None:
        """Do one thing, if it can be done now."""
        self.sent = [at for at in self.sent if at + TIMEOUT > now]
        window = self.lease.window
        assert window is not None
        if what == "ask" and self.asked is None:
            self.asked = now, self.lease.ask(len(self.sent), 9, now)
        elif what == "heard" and self.asked is not None and self.grant is None:
            self.grant = book.sync(self.name, {0: self.asked[1]}, now)[0]
        elif what == "answer" and self.asked is not None and self.grant is not None:
            self.lease.granted(self.grant, self.asked[0], now)
            self.asked = self.grant = None
        elif what == "send" and not self.lease.is_over(now):
            self.sent += [now] * (window.size - len(self.sent))
        elif what == "end":
            self.sent = self.sent[2:]


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=8, max_size=30))
def test_no_more_slots_are_in_use_than_there_are(
    steps: list[tuple[int, list[str], float]],
) -> None:
    """However late messages are, and whoever is silent for long."""
    book, now = LeaseBook({0: Terms(SLOTS, None, None, TIMEOUT)}), 0.0
    holders = [Holder(number) for number in range(3)]
    for who, what, seconds in steps:
        now += seconds
        for each in what:
            holders[who].step(each, book, now)
        in_use = [at for holder in holders for at in holder.sent if at + TIMEOUT > now]
        assert len(in_use) <= SLOTS
