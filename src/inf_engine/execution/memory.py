"""`Memory`: the answers that an engine need not pay for again.

The journal keeps every answer before it is used, for the input it was made for; a run
with the same journal takes it from there. The cache keeps answers for any input. Equal
requests at the same moment are one: those that came later follow the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from inf_engine.journal import (
    CallNumbers,
    JournalStore,
    Row,
    cache_key,
    call_key,
    canonical_request,
    decode_response,
    encode_response,
    identity_of,
)
from inf_engine.resources.job import Job, JobState
from inf_engine.resources.ledger import Ledger, Reuse
from inf_engine.resources.manager import ResourceManager
from inf_engine.types import LLMResponse, Usage

Identity = Callable[..., Any]


class Memory:
    """The journal and the cache of one engine.

    Args:
        journal: Where answers are kept for their input, None for nowhere.
        cache: Where answers are kept for any input, None for nowhere.
        ledger: Where reuse is booked.
        submit: Puts a job on the road.
        model_of: Gives the first model of an alias.
    """

    def __init__(
        self,
        journal: JournalStore | None,
        cache: JournalStore | None,
        ledger: Ledger,
        submit: Callable[[Job], None],
        model_of: Callable[[str], str],
    ) -> None:
        self.journal = journal
        self.cache = cache
        self.ledger = ledger
        self.submit = submit
        self.model_of = model_of
        self._followers: dict[bytes, list[Any]] = {}

    @classmethod
    def opened(cls, journal: Any, cache: Any, manager: ResourceManager) -> Self | None:
        """Return the memory of an engine, None if it keeps nothing.

        Args:
            journal: A path, a `JournalStore`, or None.
            cache: A path, a `JournalStore`, or None.
            manager: The road to the clients.

        Raises:
            JournalError: If a file cannot be used, or not trusted.
        """
        if journal is None and cache is None:
            return None
        stores = [_store(journal)]
        try:
            stores.append(_store(cache))
        except BaseException:
            if stores[0] is not None:
                stores[0].close()
            raise
        ledger = manager.spending.ledger
        return cls(stores[0], stores[1], ledger, manager.submit, manager.model_of)

    def close(self) -> None:
        """Close the files."""
        for store in (self.journal, self.cache):
            if store is not None:
                store.close()

    def follow(self, job: Any) -> bool:
        """Let a job wait for an equal one that is on its way; say whether there is."""
        others = self._followers.get(job.key)
        if others is None:
            self._followers[job.key] = []
            return False
        job.state = JobState.FOLLOWING
        others.append(job)
        return True

    def keep(self, job: Any, response: LLMResponse) -> None:
        """Keep an answer, then give it to those that follow.

        Raises:
            JournalError: If it could not be kept.
        """
        text = encode_response(response)
        for store, row in ((self.journal, job.row), (self.cache, job.cache_row)):
            if store is not None:
                store.append(replace(row, response=text))
                store.commit()
        for other in self._followers.pop(job.key, ()):
            if other.state is JobState.FOLLOWING:
                if self.journal is not None:
                    self.journal.append(replace(other.row, response=text))
                self.reuse(other, response)

    def drop(self, job: Any) -> None:
        """Let the next go in place of one that got no answer."""
        if job.state is JobState.FOLLOWING or job.key not in self._followers:
            return
        others = self._followers.pop(job.key)
        left = [other for other in others if other.state is JobState.FOLLOWING]
        if left:
            self._followers[job.key] = left[1:]
            self.submit(left[0])

    def reuse(self, job: Any, response: LLMResponse, kind: Reuse = "cache") -> None:
        """End a job with an answer that was paid for before."""
        self.ledger.reused(job.alias, job.origin, kind)
        job.state = JobState.ENDED
        job.reused(replace(response, usage=Usage(), cost=0.0, seconds=0.0))


def _store(given: Any) -> JournalStore | None:
    """Return the store that a path names."""
    if given is None or isinstance(given, JournalStore):
        return given
    return JournalStore(given)


class RunMemory:
    """The memory as one run sees it.

    Args:
        memory: The engine's.
        args: The positional inputs of the run.
        kwargs: Its keyword inputs.
        identity: Gives what stands for the inputs, called with them; None for the
            content of the inputs themselves.
    """

    __slots__ = ("_args", "_identity", "_input", "_kwargs", "_numbers", "memory")

    def __init__(
        self,
        memory: Memory,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        identity: Identity | None,
    ) -> None:
        self.memory = memory
        self._args = args
        self._kwargs = kwargs
        self._identity = identity
        self._input: str | None = None
        self._numbers = CallNumbers()

    def send(self, job: Any) -> None:
        """Answer a job from memory, or put it on the road.

        Raises:
            JournalError: If the input cannot be told from others, or a file is damaged.
        """
        memory = self.memory
        self._identify(job)
        journal, cache = memory.journal, memory.cache
        kept = None if journal is None else journal.get(job.row.key)
        if kept is not None:
            memory.reuse(job, decode_response(kept), "journal")
            return
        kept = None if cache is None else cache.get(job.cache_row.key)
        if kept is not None:
            if journal is not None:
                journal.append(replace(job.row, response=kept))
            memory.reuse(job, decode_response(kept))
        elif not memory.follow(job):
            memory.submit(job)

    def _identify(self, job: Any) -> None:
        """Give a job its keys."""
        memory = self.memory
        text, model = canonical_request(job.request), memory.model_of(job.alias)
        number = self._numbers.take(job.origin, text, model)
        job.row = job.cache_row = None
        if memory.cache is not None:
            key = job.key = cache_key(text, model, number)
            job.cache_row = _row(job, key, "cached", model, number, text, "")
        if memory.journal is not None:
            key = call_key(job.origin, text, model, self._input_id(), number)
            job.row = _row(job, key, "call", model, number, text, self._input_id())
            job.key = key if memory.cache is None else job.key

    def _input_id(self) -> str:
        if self._input is None:
            args, kwargs = self._args, self._kwargs
            if self._identity is not None:
                args, kwargs = (self._identity(*args, **kwargs),), {}
            self._input = identity_of(args, kwargs)
        return self._input


def _row(
    job: Any, key: bytes, kind: str, model: str, number: int, text: str, input_id: str
) -> Row:
    return Row(
        key,
        kind=kind,
        path=job.origin,
        alias=job.alias,
        model=model,
        input=input_id,
        number=number,
        request=text,
    )
