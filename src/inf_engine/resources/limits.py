"""`RateLimits`: when the next request to an endpoint may leave.

A request leaves when every limit lets it: requests and tokens per minute as configured,
and whatever limits the headers of answers tell of (`TokenBucket` says how). Tokens are
booked as estimated and corrected when the answer tells what was used.

A refusal (429) begins an *episode*. Everything pauses until the time that it names, or
the reset that its headers name, or for 25 ms, doubled for every refusal in a row, 30 s
at most: short, because after the pause exactly one request, the probe, may leave. Its
answer ends the episode; its refusal pauses again. Requests that were on their way when
the pause began tell nothing new when they are refused as well.

Headers that explain the refusal are all there is to learn. When nothing explains it, a
rate has to be learnt from what was answered (`Pace` says how).

A few refusals that name no time and are explained by nothing, among many more requests
in flight, begin no episode at all: that is a server that takes no more at once, and
the window is the remedy for it. Few is a quarter of what is left in flight. Where
nothing was known and a `first_flight` was sent ahead, few is all of it until the first
episode: the window doubles there, goes far beyond what a server takes at once, and a
pause would leave idle what it does take.

Before the first answer nothing is known, and a flood would be refused as a whole. A
`first_flight` lets only that many leave at once, and as many a second, until then.
"""

import math

from inf_engine.resources.bucket import MINUTE, TokenBucket
from inf_engine.resources.pace import Episode, Pace, Sent
from inf_engine.types import Quota, RateHint

FIRST_FLIGHT = 8

_CROWD = 4
_FIRST_CROWD = 1


class RateLimits:
    """The rate limits of one endpoint: configured, told by headers, or found out.

    A request is `sent`, and its `Sent` is handed back exactly once: to `answered`,
    `refused` or `lost`.

    Args:
        requests_per_minute: The limit that the user set, None for none; a bucket of it
            where several processes share it.
        tokens_per_minute: The limit of tokens read and written, likewise.
        first_flight: How many may leave before the first answer, None for any number.
        patience: Seconds after which a probe that is not refused counts as answered.

    Raises:
        ValueError: If a limit is not above 0.
    """

    __slots__ = (
        "_alone",
        "_answers",
        "_buckets",
        "_crowd",
        "_episode",
        "_first",
        "_is_free",
        "_known",
        "_number",
        "_open",
        "_pace",
        "_patience",
        "_since",
        "_total_in",
        "_total_out",
    )

    def __init__(
        self,
        requests_per_minute: float | TokenBucket | None,
        tokens_per_minute: float | TokenBucket | None,
        first_flight: int | None = None,
        patience: float = math.inf,
    ) -> None:
        self._known: list[TokenBucket | None] = [
            _configured(requests_per_minute, "requests_per_minute"),
            _configured(tokens_per_minute, "tokens_per_minute"),
            None,
            None,
        ]
        self._first: TokenBucket | None = None
        if first_flight is not None and requests_per_minute is None:
            self._first = TokenBucket(first_flight * MINUTE, 0.0, first_flight)
        self._pace = Pace()
        self._patience = patience
        self._episode: Episode | None = None
        self._number = self._total_in = self._total_out = 0
        self._answers = 0
        self._open = 0
        self._alone = 0.0
        self._crowd = _CROWD if first_flight is None else _FIRST_CROWD
        self._since = -math.inf
        self._buckets: list[tuple[TokenBucket, int]] = []
        self._is_free = False
        self._arrange()

    @property
    def is_probing(self) -> bool:
        """Whether everything waits for a pause's end or for the probe's answer."""
        return self._episode is not None

    @property
    def paused_until(self) -> float | None:
        """Until when nothing may leave, None if nothing is paused."""
        return None if self._episode is None else self._episode.until

    @property
    def buckets(self) -> list[tuple[TokenBucket, int]]:
        """What is kept to; of requests 0, tokens 1, those read 2, those written 3."""
        return self._buckets

    @property
    def requests_per_minute(self) -> float | None:
        """The rate of requests that is kept to, None if none is known."""
        rates = [b.per_minute for b in (self._known[0], self._pace.bucket) if b]
        return min(rates, default=None)

    def ready_at(self, tokens_in: int, tokens_out: int, now: float) -> float:
        """Return when a request may leave: `now`, later, or inf.

        inf means not before an answer; ask again after each.

        Args:
            tokens_in: Tokens read, as estimated.
            tokens_out: Tokens written, as estimated.
            now: Seconds on the loop's clock.
        """
        if self._is_free:
            return now
        ready = now
        if self._episode is not None:
            probe, until = self._episode.probe, self._episode.until
            ready = max(now, until if probe is None else probe.at + self._patience)
        amounts = (1, tokens_in + tokens_out, tokens_in, tokens_out)
        for bucket, which in self._buckets:
            at = bucket.ready_at(amounts[which], now)
            if at > ready:
                ready = at
        return ready

    def sent(self, tokens_in: int, tokens_out: int, now: float) -> Sent:
        """Book a request that leaves now.

        Args:
            tokens_in: Tokens read, as estimated.
            tokens_out: Tokens written, as estimated.
            now: Seconds on the loop's clock.

        Returns:
            What to hand back when it ends.
        """
        self._number = number = self._number + 1
        self._open += 1
        self._total_in = total_in = self._total_in + tokens_in
        self._total_out = total_out = self._total_out + tokens_out
        sent = Sent(tokens_in, tokens_out, now, number, total_in, total_out)
        if not self._is_free:
            amounts = (1, tokens_in + tokens_out, tokens_in, tokens_out)
            for bucket, which in self._buckets:
                bucket.take(amounts[which], now)
            if self._episode is not None:
                self._leave(self._episode, sent)
        return sent

    def answered(
        self,
        sent: Sent,
        used: tuple[int, int] | None,
        hint: RateHint | None,
        now: float,
    ) -> None:
        """Take note of an answer, also of one that is an error but not a 429.

        Args:
            sent: What `sent` returned.
            used: Tokens read and written; None if unknown, so that the estimate stays.
            hint: What the headers say, None if nothing.
            now: Seconds on the loop's clock.
        """
        self._answers += 1
        self._open -= 1
        if self._alone:
            self._alone = max(0.0, self._alone - 1 / self._crowd)
        if used is not None and (used[0] != sent[0] or used[1] != sent[1]):
            self._correct(sent.tokens_in - used[0], sent.tokens_out - used[1], now)
        if hint is not None:
            self._learn(sent, hint, now)
        if self._is_free:
            return
        if self._first is not None:
            self._first = None
            self._arrange()
        if self._episode is not None:
            self._settle(self._episode, sent, now)
        self._pace.creep(now)

    def refused(
        self,
        sent: Sent,
        retry_after: float | None,
        hint: RateHint | None,
        now: float,
    ) -> None:
        """Take note of a 429: give its tokens back and pause.

        Args:
            sent: What `sent` returned.
            retry_after: Seconds that the endpoint asks for, None if it does not.
            hint: What the headers say, None if nothing.
            now: Seconds on the loop's clock.
        """
        self._correct(sent.tokens_in, sent.tokens_out, now)
        if hint is not None:
            self._learn(sent, hint, now)
        self._open -= 1
        episode = self._episode
        if episode is None and retry_after is None and not _explains(hint, sent):
            self._alone += 1
            if self._crowd * self._alone <= self._open:
                return
        if episode is not None and sent.number <= episode.number:
            episode.refused += 1
            return
        if episode is None:
            episode = Episode(now, self._answers, now - self._since)
            self._episode = episode
            self._crowd = _CROWD
        if _explains(hint, sent):
            episode.is_explained = True
            retry_after = retry_after or self._seconds_until_there(sent, now)
        episode.pause(retry_after, now, self._number)
        self._first = None
        self._arrange()

    def lost(self, sent: Sent) -> None:
        """Take note of a request that ended without any answer.

        Cancelled, or the connection failed: its tokens stay booked, and if it was the
        probe, another may leave.

        Args:
            sent: What `sent` returned.
        """
        self._open -= 1
        if self._episode is not None and self._episode.probe is sent:
            self._episode.probe = None

    def _leave(self, episode: Episode, sent: Sent) -> None:
        """Let a request leave after a pause: as the probe, or because it is over."""
        if episode.is_over(sent.at, self._patience):
            self._finish(episode, sent.at, 0)
        elif episode.probe is None:
            episode.probe = sent

    def _settle(self, episode: Episode, sent: Sent, now: float) -> None:
        """Take note of an answer after a refusal: the probe's ends the episode."""
        if sent.number <= episode.number:
            episode.others += 1
        else:
            self._finish(episode, now, 1)

    def _finish(self, episode: Episode, now: float, answers: int) -> None:
        """End an episode; `answers` came from the probe."""
        self._episode = None
        self._pace.learn(episode, now)
        self._since = episode.began
        self._answers = answers
        self._arrange()

    def _correct(self, tokens_in: int, tokens_out: int, now: float) -> None:
        """Give back what was booked and not used."""
        self._total_in -= tokens_in
        self._total_out -= tokens_out
        amounts = (0, tokens_in + tokens_out, tokens_in, tokens_out)
        for bucket, which in self._buckets:
            if which:
                bucket.give(amounts[which], now)

    def _learn(self, sent: Sent, hint: RateHint, now: float) -> None:
        """Adopt what headers say of each limit."""
        tokens_in = self._total_in - sent.total_in
        tokens_out = self._total_out - sent.total_out
        later = (self._number - sent.number, tokens_in + tokens_out)
        amounts = (*later, tokens_in, tokens_out)
        quotas = (hint.requests, hint.tokens, hint.input_tokens, hint.output_tokens)
        age = now - sent.at
        for which, quota in enumerate(quotas):
            if quota is None:
                continue
            bucket = self._known[which]
            if bucket is not None:
                bucket.learn(quota, now, amounts[which], age)
                continue
            learnt = TokenBucket.learnt(quota, now, amounts[which], age)
            if learnt is not None:
                self._known[which] = learnt
                self._arrange()

    def _seconds_until_there(self, sent: Sent, now: float) -> float | None:
        """Return when the refused request could have gone, as the headers tell."""
        tokens = (sent.tokens_in + sent.tokens_out, sent.tokens_in, sent.tokens_out)
        amounts = (1, *tokens)
        ready = [b.ready_at(amounts[which], now) for b, which in self._buckets]
        return max(ready, default=now) - now

    def _arrange(self) -> None:
        """Look again at what there is to heed."""
        buckets = [(b, which) for which, b in enumerate(self._known) if b is not None]
        guesses = (self._first, self._pace.bucket)
        self._buckets = buckets + [(b, 0) for b in guesses if b is not None]
        self._is_free = not self._buckets and self._episode is None


def _configured(
    per_minute: float | TokenBucket | None, name: str
) -> TokenBucket | None:
    """Return the bucket of a limit that the user set."""
    if per_minute is None or isinstance(per_minute, TokenBucket):
        return per_minute
    if not per_minute > 0:
        raise ValueError(
            f"{name} is {per_minute}, which lets nothing through; give a number above "
            "0, or None for no limit"
        )
    return TokenBucket(per_minute, 0.0)


def _explains(hint: RateHint | None, sent: Sent) -> bool:
    """Say whether headers name a limit that a refused request ran into."""
    if hint is None:
        return False
    tokens = sent.tokens_in + sent.tokens_out
    return (
        _is_short(hint.requests, 1)
        or _is_short(hint.tokens, tokens)
        or _is_short(hint.input_tokens, sent.tokens_in)
        or _is_short(hint.output_tokens, sent.tokens_out)
    )


def _is_short(quota: Quota | None, amount: float) -> bool:
    return (
        quota is not None and quota.remaining is not None and quota.remaining < amount
    )
