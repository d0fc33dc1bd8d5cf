"""`Memory`: the answers that an engine need not pay for again.

The journal keeps every answer before it is used, for the input it was made for; a run
with the same journal takes it from there. The cache keeps answers for any input. Equal
requests at the same moment are one: those that came later follow the first. Where a
file must survive a loss of power, answers are made lasting together (`GroupCommit`).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, Self

from inf_engine.errors import ConfigurationError, JournalError
from inf_engine.execution.lasting import GroupCommit
from inf_engine.journal import (
    AnswerStore,
    JournalStore,
    decode_response,
    encode_response,
)
from inf_engine.resources.job import Job, JobState
from inf_engine.resources.ledger import Ledger, Reuse
from inf_engine.resources.manager import ResourceManager
from inf_engine.types import LLMResponse, Usage

Told = Callable[[LLMResponse | JournalError], None]


class Observer(Protocol):
    """Is told of every answer that is kept or given again: the books of a training."""

    def kept(self, job: Any) -> None:
        """Take note that a job's answer is about to be kept."""
        ...

    def reused(self, job: Any, response: LLMResponse) -> bool:
        """Take note that a job gets an answer again; False if it was ended instead."""
        ...


@dataclass(slots=True, eq=False)
class _Flight:
    """A request that is asked, and the equal ones that wait for its answer."""

    leader: Any
    followers: list[Any] = field(default_factory=list)


class Memory:
    """The journal and the cache of one engine.

    Args:
        journal: Where answers are kept for their input, None for nowhere.
        cache: Where answers are kept for any input, None for nowhere.
        ledger: Where reuse is booked.
        submit: Puts a job on the road.
        withdraw: Takes a job off the road.
        model_of: Gives the first model of an alias.

    Attributes:
        observer: Who is told of answers that are kept and used again, None for nobody.
    """

    observer: Observer | None = None

    def __init__(
        self,
        journal: AnswerStore | None,
        cache: AnswerStore | None,
        ledger: Ledger,
        submit: Callable[[Job], None],
        withdraw: Callable[[Job], None],
        model_of: Callable[[str], str],
    ) -> None:
        self.journal = journal
        self.cache = cache
        self.ledger = ledger
        self.submit = submit
        self.withdraw = withdraw
        self.model_of = model_of
        self._own: list[JournalStore] = []
        self._flights: dict[bytes, _Flight] = {}
        gathering = [s for s in (journal, cache) if s is not None and s.gathers]
        self._group = GroupCommit(gathering) if gathering else None

    @classmethod
    def opened(cls, journal: Any, cache: Any, manager: ResourceManager) -> Self | None:
        """Return the memory of an engine, None if it keeps nothing.

        Args:
            journal: A path, a `JournalStore`, or None.
            cache: A path, a `JournalStore`, or None.
            manager: The road to the clients.

        Raises:
            ConfigurationError: If one is no path, or both are one file.
            JournalError: If a file cannot be used, or not trusted.
        """
        if journal is None and cache is None:
            return None
        _check_file("journal", journal)
        _check_file("cache", cache)
        _check_two(journal, cache)
        stores = [_store(journal)]
        try:
            stores.append(_store(cache))
        except BaseException:
            if stores[0] is not None and stores[0] is not journal:
                stores[0].close()
            raise
        ledger = manager.spending.ledger
        road = manager.submit, manager.cancel, manager.model_of
        memory = cls(stores[0], stores[1], ledger, *road)
        memory._own = [s for s in stores if s is not None and s not in (journal, cache)]
        return memory

    def close(self) -> None:
        """Close the files; a store that was handed in stays its owner's to close."""
        try:
            if self._group is not None:
                self._group.close()
        finally:
            for store in self._own:
                store.close()

    def check(self) -> None:
        """Make sure that an answer could be kept, before it is paid for.

        Raises:
            JournalError: If it could not.
        """
        for store in (self.journal, self.cache):
            if store is not None:
                store.check()

    def follow(self, job: Any) -> bool:
        """Let a job wait for an equal one that is on its way; say whether there is."""
        flight = self._flights.get(job.key)
        if flight is None:
            self._flights[job.key] = _Flight(job)
            return False
        job.state = JobState.FOLLOWING
        flight.followers.append(job)
        return True

    def keep(
        self, job: Any, response: LLMResponse, told: Told | None = None
    ) -> LLMResponse | None:
        """Keep an answer, then give it to those that follow.

        Args:
            job: What it answers.
            response: The answer.
            told: Called with what is returned or raised otherwise, if many answers
                can share the wait for the disk; None to wait here.

        Returns:
            What to go on with: another answer if the journal has one, because that of
            a cancelled call came after all. None if `told` will be called.

        Raises:
            JournalError: If it could not be kept; those that follow fail with it, too.
        """
        if self.observer is not None:
            self.observer.kept(job)
        followers = self._landed(job)
        group = self._group
        try:
            response = self._stored(job, followers, response)
            if group is not None and told is not None:
                group.wait(partial(self._kept, job, followers, response, told))
                return None
            if group is not None:
                group.commit()
        except JournalError as exc:
            _fail(followers, exc)
            self._give_up()
            raise
        self._share(followers, response)
        return response

    def _kept(
        self,
        job: Any,
        followers: list[Any],
        response: LLMResponse,
        told: Told,
        error: JournalError | None,
    ) -> None:
        """Go on with an answer that lasts now, or fail."""
        if error is None:
            told(response)
            self._share(followers, response)
            return
        told(error)
        _fail([o for o in followers if o.state is JobState.FOLLOWING], error)
        self._give_up()

    def _share(self, followers: list[Any], response: LLMResponse) -> None:
        """Give an answer to those that waited for it."""
        kind: Reuse = "journal" if self.cache is None else "cache"
        for other in followers:
            if other.state is JobState.FOLLOWING:
                self.reuse(other, response, kind)

    def drop(self, job: Any) -> None:
        """Let the next go in place of one that got no answer."""
        left = self._landed(job)
        if not left:
            return
        try:
            self.check()
        except JournalError as exc:
            _fail(left, exc)
            return
        self._flights[job.key] = _Flight(left[0], left[1:])
        self.submit(left[0])

    def _give_up(self) -> None:
        """If no answer can be kept any more, fail all that have not left."""
        try:
            self.check()
        except JournalError as exc:
            for leader in [flight.leader for flight in self._flights.values()]:
                if leader.state in (JobState.WAITING, JobState.PAUSED):
                    self.withdraw(leader)
                    _fail([leader, *self._landed(leader)], exc)

    def _landed(self, job: Any) -> list[Any]:
        """Forget that a job is asked; return those that waited for its answer."""
        flight = self._flights.get(job.key)
        if flight is None or flight.leader is not job:
            return []
        del self._flights[job.key]
        return [o for o in flight.followers if o.state is JobState.FOLLOWING]

    def _stored(
        self, job: Any, followers: list[Any], response: LLMResponse
    ) -> LLMResponse:
        """Append an answer; return the one that the journal now has."""
        text, journal = encode_response(response), self.journal
        if journal is not None:
            if not journal.append(job.row, text):
                text = journal.get(job.row.key) or text
                response = decode_response(text)
            for other in followers:
                journal.append(other.row, text)
        if self.cache is not None:
            self.cache.append(job.cache_row, text)
        return response

    def give(self, job: Any, response: LLMResponse, kind: Reuse) -> None:
        """End a job with an answer that a file has, as soon as it lasts there."""
        files = (self.journal, job.row), (self.cache, job.cache_row)
        if all(s is None or s.is_lasting(row.key) for s, row in files):
            self.reuse(job, response, kind)
        elif self._group is not None:
            job.state = JobState.FOLLOWING
            self._group.wait(partial(self._given, job, response, kind))

    def _given(
        self, job: Any, response: LLMResponse, kind: Reuse, error: JournalError | None
    ) -> None:
        """End a job that has waited for the disk, unless it was cancelled."""
        if job.state is not JobState.FOLLOWING:
            return
        if error is None:
            self.reuse(job, response, kind)
        else:
            _fail([job], error)

    def reuse(self, job: Any, response: LLMResponse, kind: Reuse) -> None:
        """End a job with an answer that was paid for before."""
        if self.observer is not None and not self.observer.reused(job, response):
            return
        self.ledger.reused(job.alias, job.origin, kind)
        job.state = JobState.ENDED
        free = replace(response, usage=Usage(), cost=0.0, seconds=0.0)
        job.reused(free, kind, response.usage)


def _check_file(name: str, given: Any) -> None:
    """Refuse what is no path of a file."""
    if given is None or isinstance(given, JournalStore):
        return
    if not isinstance(given, (str, os.PathLike)) or "\0" in os.fspath(given):
        raise ConfigurationError(
            f"{name} must be the path of a file or a JournalStore, not {given!r}."
        )


def _check_two(journal: Any, cache: Any) -> None:
    """Refuse one file for both."""
    if journal is None or cache is None or _path(journal) != _path(cache):
        return
    raise ConfigurationError(
        f"journal and cache name one file, {_path(journal)}. Name two: a cache answers "
        "for any input, a journal for its own."
    )


def _path(given: Any) -> str:
    """Return the real path of a file or a store."""
    return os.path.realpath(given.path if isinstance(given, JournalStore) else given)


def _store(given: Any) -> JournalStore | None:
    """Return the store that a path names."""
    if given is None or isinstance(given, JournalStore):
        return given
    return JournalStore(given)


def _fail(jobs: list[Any], error: JournalError) -> None:
    """End jobs that are not on the road."""
    for job in jobs:
        job.state = JobState.ENDED
        job.ended(error)
