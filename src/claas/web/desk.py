"""`Desk`: what the endpoints work with, and who may use what."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import httpx

from claas.config import Settings
from claas.errors import AccessError, ClaasError, NotFoundError
from claas.jobs import Jobs
from claas.ledger import Ledger
from claas.loaded import check_base
from claas.names import LoraName
from claas.ratings import Ratings
from claas.receipts import Receipts
from claas.serving import Serving
from claas.storage import load_lora, version
from claas.types import Receipt
from claas.volumes import Volume
from claas.web.answers import Answers, Asked, listed
from claas.web.metrics import Metrics

T = TypeVar("T")
_log = logging.getLogger("claas.api")
_THREADS = 64

FOREIGN = "distill-"
"""What the id of an answer begins with that was not given here."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is to answer a request.

    Args:
        user: Who asks.
        model: What the client calls it.
        serving: What the inference server calls it.
        lora: The version of an adapter; None for the base.
    """

    user: str
    model: str
    serving: str
    lora: LoraName | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What the endpoints work with.

    Args:
        settings: What the server was told.
        receipts: What was sampled.
        ledger: What was said about it.
        ratings: How good it was found.
        jobs: Updates that were asked for.
        volume: Where adapters are kept.
        serving: The inference server, for threads.
        upstream: The inference server, for answers that pass through.
        metrics: What counts.
        threads: Those that wait for the inference server. What only reads the disk has
            others, so that a server that hangs holds up nobody who needs none of it.
    """

    settings: Settings
    receipts: Receipts
    ledger: Ledger
    ratings: Ratings
    jobs: Jobs
    volume: Volume
    serving: Serving
    upstream: httpx.AsyncClient
    metrics: Metrics
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, "claas-server")
    )

    async def ask(self, call: Callable[..., T], *given: Any) -> T:
        """Call what waits for the inference server, in a thread.

        Args:
            call: A synchronous function.
            given: Its arguments.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, partial(call, *given))

    def owned(self, user: str, text: str) -> LoraName:
        """Return the name of an adapter, if it is the user's.

        Args:
            user: Who asks.
            text: ``user/model``, with or without a version.

        Raises:
            IdentifierError: If it is no name of an adapter.
            AccessError: If it is another user's, whether there is one or not.
        """
        name = LoraName.of(text)
        if name.user != user:
            raise AccessError(
                f"{name} is not yours: your key is of the user {user!r}, whose "
                f"adapters are called '{user}/…'."
            )
        return name

    def version(self, user: str, text: str) -> LoraName:
        """Return the version that a name means; ``live`` where it says none.

        Args:
            user: Who asks.
            text: ``user/model``, ``user/model@v3`` or ``user/model@latest``.

        Raises:
            IdentifierError: If it is no name of an adapter.
            AccessError: If it is another user's.
            NotFoundError: If there is no such version.
        """
        name = self.owned(user, text)
        at = name.at or "live"
        return LoraName.of(version(f"{name.lora}@{at}", self.volume).id)

    def target(self, user: str, model: str) -> Target:
        """Return who is to answer; synchronous, it reads the disk.

        Args:
            user: Who asks.
            model: The base's name, or an adapter's.

        Raises:
            ClaasError: If it is none of his.
        """
        if model == self.settings.served:
            return Target(user, model, model)
        name = self.version(user, model)
        return Target(user, model, name.serving, name)

    def load(self, name: LoraName) -> None:
        """Let the inference server load a version; synchronous.

        It stays for the grace, or as long as it is live.

        Args:
            name: The version.

        Raises:
            ConfigurationError: If it belongs to another base model.
            ClaasError: If it cannot.
        """
        check_base(str(name), self.settings.base_model, self.volume)
        self.jobs.trainer.lend(str(name))
        self.serving.load(name.serving, str(load_lora(str(name), self.volume)))

    def unload(self, names: Iterable[LoraName]) -> None:
        """Let the inference server forget versions, if it can; synchronous.

        Args:
            names: The versions.
        """
        try:
            loaded = self.serving.names()
            for name in names:
                if name.serving in loaded:
                    self.serving.unload(name.serving)
        except ClaasError:  # they take room there, and answer nobody here
            _log.warning("versions of a deleted adapter may still be loaded")

    def receipt(self, user: str, receipt_id: str) -> Receipt:
        """Return a receipt, if it is the user's.

        Args:
            user: Who asks.
            receipt_id: Its id.

        Raises:
            NotFoundError: If he has none of that id, be it another's or nobody's.
        """
        with contextlib.suppress(NotFoundError):
            if (found := self.receipts.get(receipt_id)).user == user:
                return found
        raise NotFoundError(
            f"you have no receipt {receipt_id[:80]!r}: it is the id of an answer that "
            f"was given here in the last {self.settings.limits.receipt_days:g} days."
        )

    def keep(self, name: str, target: Target, asked: Asked, answers: Answers) -> bool:
        """Write receipts down; say whether there are any. An answer never fails so.

        Args:
            name: The id of the first; the others have their number behind it.
            target: Who answered.
            asked: What was asked.
            answers: What was answered.
        """
        lora = target.lora
        found = [
            Receipt(
                id=f"{name}:{index}" if index else name,
                user=target.user,
                lora="" if lora is None else lora.lora,
                version=None if lora is None else lora.version,
                messages=asked.messages(index),
                prompt_ids=tuple(answer.prompt_ids),
                token_ids=tuple(answer.token_ids),
                logprobs=tuple(answer.logprobs),
                text=answer.told,
                tools=tuple(listed(asked.body.get("tools"))),
                sampling=asked.sampling,
                created=time.time(),
            )
            for index, answer in answers.items()
        ]
        return self._kept(found)

    def _kept(self, found: list[Receipt]) -> bool:
        """Write receipts down; log it if that fails."""
        if not found:
            self.metrics.count("receipts_lost", "no_tokens")
            _log.warning("an answer has no receipt: the server reported no tokens")
            return False
        try:
            self.receipts.add(*found)
        except ClaasError as exc:
            self.metrics.count("receipts_lost", "storage")
            _log.error("an answer has no receipt: %s", exc)
            return False
        self.metrics.count("receipts", by=len(found))
        return True


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess.

    Args:
        prefix: What it begins with.
    """
    return prefix + secrets.token_hex(12)
