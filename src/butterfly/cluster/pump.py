"""`Pump`: sequences in, frames around the ring, tokens out.

It has the scheduler and the two ends of the ring. Results come in a thread of their
own; all else happens in the event loop.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable

import numpy as np

from butterfly.cluster.patience import Patience, Place, where
from butterfly.cluster.token import Token
from butterfly.communication.frames import Frame, Hop, Kind
from butterfly.communication.links import Ring
from butterfly.engine.sampling import Drawn, unpack
from butterfly.errors import ButterflyError
from butterfly.scheduling import Batch, Limits, Scheduler, Sequence

_log = logging.getLogger("butterfly.head")


class Moved(Exception):
    """A sequence is to be served by another ring."""


class Pump:
    """Serves sequences over a ring, one ring after the other.

    Args:
        scheduler: What says what travels in the next frame.
        broke: What is told the epoch of a ring that broke, and why.
        took: What is told the seconds that each stage computed for a frame.
        patience: How long a frame may be out.

    Attributes:
        ring: The present ring, None between epochs.
        is_asleep: Whether the nodes are to be without layers; nothing is sent then.
        is_retiring: Whether the epoch is about to end; nothing is sent then.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        broke: Callable[[int, str], None],
        took: Callable[[list[float]], None],
        patience: Patience,
    ) -> None:
        self.scheduler = scheduler
        self.ring: Ring | None = None
        self.is_asleep = self.is_retiring = False
        self._broke, self._took, self.patience = broke, took, patience
        self._out: dict[int, tuple[float, int]] = {}  # when, and rows on the ring then
        self._queues: dict[Sequence, asyncio.Queue[Token | Exception]] = {}
        self._listener: threading.Thread | None = None
        self._news = asyncio.Event()

    def begin(self, ring: Ring, limits: Limits) -> None:
        """Go on over a new ring; what is open runs again from its tokens.

        Args:
            ring: The ring.
            limits: How much may travel at once.
        """
        self.ring = ring
        self.scheduler.reset(limits)
        self._out.clear()
        told = ring, asyncio.get_running_loop()
        self._listener = threading.Thread(
            target=self._listen, args=told, name="listener", daemon=True
        )
        self._listener.start()
        self.push()

    def end(self) -> Ring | None:
        """Leave the ring, and return it; sequences stay."""
        ring, self.ring = self.ring, None
        self.stir()
        return ring

    def join(self, patience: float) -> None:
        """Wait for the thread that listens; it wakes when the last stage is gone.

        Args:
            patience: Seconds to wait.
        """
        if self._listener is not None:
            self._listener.join(patience)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """Give the tokens of a sequence as they come; leaving the loop ends it.

        The first parts of a long prompt come as tokens without one: what was drawn is
        None there.

        Args:
            sequence: What to generate.

        Raises:
            RequestError: If it does not fit.
            CapacityError: If too many wait already.
            ClusterError: If no nodes are left to serve it.
            Moved: If another ring is to go on with it.
        """
        self.scheduler.add(sequence)
        queue = self._queues[sequence] = asyncio.Queue()
        try:
            self.push()
            while True:
                told = await queue.get()
                if isinstance(told, Exception):
                    raise told
                yield told
                if told.finish:
                    return
        finally:
            is_ours = self._queues.pop(sequence, None) is not None
            if is_ours and not sequence.finish:
                self.scheduler.abort(sequence)

    def pass_on(self) -> None:
        """Let another ring go on with what is open; who asked is told by `Moved`."""
        for sequence in self.scheduler.hand_over():
            if (queue := self._queues.pop(sequence, None)) is not None:
                queue.put_nowait(Moved())

    def fail(self, error: ButterflyError, adapter: int | None = None) -> None:
        """End open sequences with an error.

        Args:
            error: What their clients are told.
            adapter: Only those with this adapter; None for all.
        """
        for sequence, queue in self._queues.items():
            if adapter is None or sequence.adapter == adapter:
                queue.put_nowait(error)
                self.scheduler.abort(sequence)

    def stuck(self, counts: list[tuple[int, int]]) -> tuple[Place, float] | None:
        """Return where a frame is that is out too long, and for how long.

        Args:
            counts: How many frames each stage received and sent, in order.
        """
        if self.ring is None or not self._out:
            return None
        left, rows = self._out[min(self._out)]
        out = time.monotonic() - left
        place = where(self.ring.received.frames, counts)
        limit = place.limits * self.patience.limit(rows)
        return (place, out) if out > limit else None

    async def drained(self) -> None:
        """Wait until no frame is on its way, or the ring broke."""
        while self.ring is not None and self.scheduler.in_flight:
            await self.changed()

    async def changed(self) -> None:
        """Wait until a frame or a word came, or the ring broke."""
        self._news.clear()
        await self._news.wait()

    def stir(self) -> None:
        """Wake those who wait for a change."""
        self._news.set()

    def push(self) -> None:
        """Send frames as long as there is something to send."""
        ring = self.ring
        if ring is None or self.is_asleep or self.is_retiring:
            return
        try:
            while (batch := self.scheduler.plan()) is not None:
                tokens = np.array(batch.tokens, "<i4").tobytes()
                self._out[batch.step] = time.monotonic(), self.scheduler.flying_rows
                ring.send(
                    Frame(ring.epoch, batch.step, batch.segments, Kind.TOKENS, tokens)
                )
        except ButterflyError as exc:
            self._broke(ring.epoch, str(exc))
        self._report_failed()

    def _report_failed(self) -> None:
        """Tell the clients of sequences that went wrong; others do not notice."""
        failed, self.scheduler.failed = self.scheduler.failed, []
        for sequence in failed:
            if sequence.failure is not None and sequence in self._queues:
                _log.error(
                    "a sequence was ended by %s", type(sequence.failure).__name__
                )
                self._queues[sequence].put_nowait(sequence.failure)

    def _listen(self, ring: Ring, loop: asyncio.AbstractEventLoop) -> None:
        """Take results off the ring, in a thread of their own."""
        try:
            while True:
                frame = ring.receive()
                if frame.kind is Kind.END:
                    return
                payload = bytes(frame.payload)
                told = self._arrived, ring, frame.step, payload, frame.hops
                loop.call_soon_threadsafe(*told)
        except ButterflyError as exc:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._broke, ring.epoch, str(exc))
        except RuntimeError:
            return  # the loop is closed: we are ending

    def _arrived(
        self, ring: Ring, step: int, payload: bytes, hops: tuple[Hop, ...]
    ) -> None:
        """Take what came back for a frame, and send the next ones."""
        if ring is not self.ring:
            return
        try:
            left, rows = self._out.pop(step)
            segments = self.scheduler.flying(step).segments
            drawn: dict[int, list[Drawn]] = {}
            for one in unpack(payload, segments):
                drawn.setdefault(one.lane, []).append(one)
        except (KeyError, ValueError) as exc:
            self._broke(ring.epoch, f"frame {step} came back damaged: {exc!r}")
            return
        self.patience.learn(rows, time.monotonic() - left)
        tokens = {
            lane: [one.token for one in each if one.token is not None]
            for lane, each in drawn.items()
        }
        batch = self.scheduler.settle(step, tokens)
        self.push()
        self._report(batch, drawn, hops)
        self.stir()
        self._took([hop.computed * 1e-6 for hop in hops])

    def _report(
        self, batch: Batch, drawn: dict[int, list[Drawn]], hops: tuple[Hop, ...]
    ) -> None:
        """Tell the clients of a frame what it brought."""
        each = zip(batch.sequences, batch.segments, batch.taken, strict=True)
        for sequence, part, taken in each:
            queue = self._queues.get(sequence)
            if queue is None or sequence.failure is not None:
                continue
            told = drawn.get(part.lane, [Drawn(part.lane, None)])[: max(1, taken)]
            for number, one in enumerate(told, 1):
                finish = sequence.finish if number == len(told) else ""
                is_output = one.token is not None and finish != "stop"
                took = hops if number == 1 else ()
                queue.put_nowait(Token(one, is_output, finish, part.start, took))
