"""`Pace`: a rate learnt from refusals that nothing explained.

An `Episode` lasts from a refusal until the probe after its pause is answered. Between
two refusals a server's bucket is empty at both ends, so what was answered from one
refusal to the next, the pause included, over the time between them is its rate, without
bias. The sums N and T go some episodes back, older ones counting less; (N + 2) / T
leans to the fast side while N is small, since a pace too slow is hardly ever refused.
From there the pace creeps up, by 2 % of itself a second.

Not every refusal is about a rate: a server may refuse the forty-first at once, or one
in twenty at random. Then most of what was on its way is answered, and the size of the
window is the remedy. So a pace is learnt only after two episodes in a row, in each of
which as many were refused as answered, and four refusals, three tenths or more of all
that was sent.

A pace is a remedy, and has to prove to be one: at a rate that the server allows, next
to nothing is refused. When a tenth or more of what was sent is, eight refusals counted,
then slower is no better, the refusals are chance, and the pace is forgotten.
Were it kept, it would take its own pauses for the server's rate, and each refusal would
make it slower.
"""

from typing import NamedTuple

from inf_engine.resources.bucket import MINUTE, TokenBucket

FIRST_PAUSE = 0.025
LONGEST_PAUSE = 30.0
GROWTH = 0.02
DECREASE = 0.7
RECENT = 20.0
ENOUGH_REFUSED = 4
SHARE = 0.3
USELESS = 0.1

_KEPT = 0.75


class Sent(NamedTuple):
    """A request that has left, to be handed back when it ends.

    Args:
        tokens_in: Tokens read, as estimated.
        tokens_out: Tokens written, as estimated.
        at: When it left, seconds on the loop's clock.
        number: How many requests had left with it.
        total_in: How many tokens to read had left with it.
        total_out: How many tokens to write had left with it.
    """

    tokens_in: int
    tokens_out: int
    at: float
    number: int
    total_in: int
    total_out: int


class Episode:
    """What happened since a refusal until the probe is answered.

    Args:
        now: When it began.
        answered: How many answers came since the episode before it began.
        seconds: How long ago that was.
    """

    __slots__ = (
        "before",
        "began",
        "is_explained",
        "is_named",
        "number",
        "others",
        "probe",
        "refused",
        "row",
        "seconds",
        "until",
    )

    def __init__(self, now: float, answered: int, seconds: float) -> None:
        self.began = self.until = now
        self.before = answered
        self.seconds = seconds
        self.refused = 1
        self.others = 0
        self.row = 0
        self.number = 0
        self.is_explained = False
        self.is_named = False
        self.probe: Sent | None = None

    def pause(self, seconds: float | None, now: float, number: int) -> None:
        """Let nothing leave for a while, then one.

        Args:
            seconds: How long, None to double what it was.
            now: Seconds on the loop's clock.
            number: How many requests have left; those tell nothing more.
        """
        if not seconds or seconds <= 0:
            seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.row, 60))
        else:
            self.is_named = True
        self.row += 1
        self.until = now + seconds
        self.number = number
        self.probe = None

    def is_over(self, now: float, patience: float) -> bool:
        """Say whether all may go on although no probe has been answered.

        So it is where nobody named a pause and most others were answered meanwhile,
        or where the probe was not refused for long enough.
        """
        if self.probe is not None:
            return now >= self.probe.at + patience
        return not (self.is_named or self.is_explained or self.is_about_a_rate)

    @property
    def is_about_a_rate(self) -> bool:
        """Whether nothing else explains that so many were refused."""
        return not self.is_explained and self.refused >= self.others


class Pace:
    """A rate learnt from refusals that nothing explained."""

    __slots__ = (
        "_answered",
        "_asked",
        "_base",
        "_in_a_row",
        "_refused",
        "_seconds",
        "_since",
        "bucket",
    )

    def __init__(self) -> None:
        self._base = self._since = 0.0
        self._forget()

    def _forget(self) -> None:
        self.bucket: TokenBucket | None = None
        self._in_a_row = self._refused = self._asked = 0
        self._answered = self._seconds = 0.0

    def learn(self, episode: Episode, now: float) -> None:
        """Take note of an episode that is over."""
        if not episode.is_about_a_rate:
            self._in_a_row = self._refused = self._asked = 0
            return
        is_recent = 0 < episode.seconds <= RECENT
        if self.bucket is None and not is_recent:
            self._forget()
        self._note(episode, is_recent)
        if not self._is_a_remedy():
            return
        if is_recent:
            self._base = MINUTE * (self._answered + 2) / self._seconds
        else:
            self._base = DECREASE * self._grown(now)
        self._since = now
        if self.bucket is None:
            self.bucket = TokenBucket(self._base, now, 1.0)
        self.bucket.set_rate(self._base, now)

    def _note(self, episode: Episode, is_recent: bool) -> None:
        """Count what was sent since the episode before."""
        self._in_a_row += 1
        answered = episode.before + episode.others
        refused = episode.refused
        if self.bucket is None:
            refused += episode.row - 1
        self._refused += refused
        self._asked += refused + answered
        if is_recent:
            self._answered = _KEPT * self._answered + answered
            self._seconds = _KEPT * self._seconds + episode.seconds

    def _is_a_remedy(self) -> bool:
        """Say whether so many are refused that a pace helps, and that it does help."""
        has_one = self.bucket is not None
        if self._in_a_row < 2 or self._refused < ENOUGH_REFUSED * (1 + has_one):
            return has_one
        share = self._refused / self._asked
        self._refused = self._asked = 0
        if not has_one:
            return share >= SHARE
        if share >= USELESS:
            self._forget()
        return self.bucket is not None

    def creep(self, now: float) -> None:
        """Go a bit faster than before."""
        if self.bucket is not None:
            self.bucket.set_rate(self._grown(now), now)

    def _grown(self, now: float) -> float:
        return self._base * (1 + GROWTH * (now - self._since))
