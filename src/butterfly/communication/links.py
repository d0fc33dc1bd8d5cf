"""`Ring`: one epoch's links over torch.distributed.

The data path is point to point only: a collective dies with any member, a send between
two survivors does not. gloo is a rendezvous protocol, so a receive that is posted only
when the data is there costs a round trip; here `depth` receives of the largest frame
are posted before anything is sent, and one is posted again as soon as a frame was taken
out. A receive may be larger than what comes.

The process group is an object of the epoch, not the process's default one: a new
epoch gets a new one. Who still waits in the old one is woken by `abort`: a receive that
is out of time makes gloo close every connection of its group.
"""

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from butterfly.communication.frames import Frame
from butterfly.errors import LinkError

_FOREVER = timedelta(days=365)
_MOMENT = timedelta(milliseconds=1)
_LOOK = 0.02  # seconds between two looks for the others
_MOST_MEETING = 60.0  # seconds for connections, once all are there
_FRAMES, _NOTHING = 0, 1  # tags: nobody ever sends with the second


@dataclass(slots=True)
class Traffic:
    """What went over one end of a link.

    Args:
        frames: How many frames.
        bytes: How many bytes.
        waited: Seconds that the program stood still for it.
    """

    frames: int = 0
    bytes: int = 0
    waited: float = 0.0


class Ring:
    """One rank's ends of the links to the rank before it and the rank after it.

    Args:
        store: The head's store, or a local one.
        name: The epoch's random name: the prefix in the store.
        epoch: The epoch's number.
        rank: 0 for the head, then the stages in order.
        size: How many ranks.
        frame_bytes: The size of the largest frame.
        depth: How many receives are posted.
        address: The address of the interface to use.
        patience: Seconds to wait for the others to join.
        over: Set when nobody needs the ring any more: the wait for the others ends.

    Raises:
        LinkError: If the others did not join in time, or nobody needs the ring.
    """

    def __init__(
        self,
        store: Any,
        name: str,
        epoch: int,
        rank: int,
        size: int,
        *,
        frame_bytes: int,
        depth: int = 4,
        address: str = "127.0.0.1",
        patience: float = 60.0,
        over: threading.Event | None = None,
    ) -> None:
        self.epoch = epoch
        self.sent, self.received = Traffic(), Traffic()
        self._after, self._before = (rank + 1) % size, (rank - 1) % size
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = timedelta(seconds=min(patience, _MOST_MEETING))
        options._devices = [gloo.create_device(hostname=address)]
        own = dist.PrefixStore(name, store)
        try:
            _gather(own, rank, size, patience, over or threading.Event())
            self._group = gloo(own, rank, size, options)
        except RuntimeError as exc:
            raise LinkError(
                f"rank {rank} of {size} could not join epoch {epoch} within "
                f"{patience:g} s: {_first_line(exc)}"
            ) from exc
        self._outgoing: deque[tuple[Any, torch.Tensor]] = deque()
        self._incoming: deque[tuple[Any, torch.Tensor]] = deque()
        self._depth = depth
        for _ in range(depth):
            self._post(torch.empty(frame_bytes, dtype=torch.uint8))

    def send(self, frame: Frame) -> None:
        """Send a frame to the rank after this one; it may still be on its way.

        Args:
            frame: The frame.

        Raises:
            LinkError: If the link is broken.
        """
        data = frame.encode()
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        try:
            while len(self._outgoing) >= self._depth:
                self._settle()
            work = self._group.send([tensor], self._after, _FRAMES)
        except RuntimeError as exc:
            raise self._broken(exc, self._after) from exc
        self._outgoing.append((work, tensor))
        self.sent.frames += 1
        self.sent.bytes += len(data)

    def receive(self) -> Frame:
        """Return the next frame from the rank before this one; waits for it.

        The payload is valid until the next call.

        Raises:
            LinkError: If the link is broken.
            FrameError: If it is no frame of this epoch.
        """
        if len(self._incoming) < self._depth:
            self._post(self._taken)
        work, tensor = self._incoming.popleft()
        began = perf_counter()
        try:
            work.wait(_FOREVER)
        except RuntimeError as exc:
            raise self._broken(exc, self._before) from exc
        self._taken = tensor
        frame = Frame.decode(memoryview(tensor.numpy()), self.epoch)
        self.received.waited += perf_counter() - began
        self.received.frames += 1
        self.received.bytes += frame.nbytes
        return frame

    def finish(self) -> None:
        """Wait until all that was sent has arrived.

        Raises:
            LinkError: If the link is broken.
        """
        try:
            while self._outgoing:
                self._settle()
        except RuntimeError as exc:
            raise self._broken(exc, self._after) from exc

    def abort(self) -> None:
        """Close all links of this rank: who waits on one is told. From any thread."""
        tensor = torch.empty(1, dtype=torch.uint8)
        with contextlib.suppress(RuntimeError):  # that is how it goes
            self._group.recv([tensor], self._before, _NOTHING).wait(_MOMENT)

    def _post(self, tensor: torch.Tensor) -> None:
        work = self._group.recv([tensor], self._before, _FRAMES)
        self._incoming.append((work, tensor))

    def _settle(self) -> None:
        """Wait for the oldest frame that is on its way."""
        work, _ = self._outgoing.popleft()
        began = perf_counter()
        work.wait(_FOREVER)
        self.sent.waited += perf_counter() - began

    def _broken(self, exc: RuntimeError, peer: int) -> LinkError:
        return LinkError(
            f"the link to rank {peer} broke in epoch {self.epoch}: {_first_line(exc)}"
        )


def _gather(
    store: Any, rank: int, size: int, patience: float, over: threading.Event
) -> None:
    """Wait until all ranks are there: in gloo itself nobody could be woken."""
    store.set(f"here/{rank}", b"")
    until = time.monotonic() + patience
    while away := [k for k in range(size) if not store.check([f"here/{k}"])]:
        if over.wait(_LOOK):
            raise RuntimeError("the ring is needed no more")
        if time.monotonic() > until:
            raise RuntimeError(f"without rank {', '.join(map(str, away))}")


def _first_line(exc: BaseException) -> str:
    lines = str(exc).splitlines()
    return lines[0][-200:] if lines else type(exc).__name__
