"""`Team`: a stage that several processes of this machine compute together.

The process that has the ring is the first; it starts the others, and each loads its
part of the layers (`Shard`). For each frame the first one tells the others hidden
states and segments, as it would tell the next stage, and all compute; what they add up
goes over a gloo group of their own. Embedding, head and sampling are the first one's.

A team is whole or nothing: who is gone, or fails, ends it, and a new one is loaded.
"""

import contextlib
import multiprocessing
import signal
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from butterfly.communication.codecs import CODECS
from butterfly.communication.frames import Frame, Kind, Segment
from butterfly.engine.adapters import Adapters
from butterfly.engine.shard import Shard, styles_of
from butterfly.engine.stage import Shape, Stage
from butterfly.engine.weights import Checkpoint
from butterfly.errors import ButterflyError, ConfigurationError, LinkError

_PATIENCE = timedelta(minutes=10)  # with a process that computes; who is gone is missed
_EXACT = 0  # the number of the codec f32


@dataclass(frozen=True, slots=True)
class Place:
    """What one process of a team is told.

    Args:
        folder: Where the checkpoint is.
        shape: Which layers, and how much room.
        rank: Which part of them, from 0.
        count: How many parts there are.
        dtype: Of weights and hidden states.
        meeting: The folder where all find each other.
        threads: How many threads compute.
    """

    folder: Path
    shape: Shape
    rank: int
    count: int
    dtype: torch.dtype
    meeting: str
    threads: int


class Sum:
    """Adds tensors up over the processes of a team.

    Args:
        place: What this process was told.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._group: Any = None

    def join(self) -> None:
        """Meet the others, who all come here.

        Raises:
            LinkError: If one does not come.
        """
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = _PATIENCE
        options._devices = [gloo.create_device(hostname="127.0.0.1")]
        place = self._place
        try:
            store = dist.FileStore(f"{place.meeting}/store", place.count)
            self._group = gloo(store, place.rank, place.count, options)
        except RuntimeError as exc:
            raise LinkError(f"the processes of a stage did not meet: {exc}") from exc

    def __call__(self, tensor: torch.Tensor) -> None:
        """Put the sum in the place of a tensor.

        Args:
            tensor: One of the same shape in all processes.

        Raises:
            LinkError: If one of them is gone.
        """
        try:
            self._group.allreduce([tensor]).wait()
        except RuntimeError as exc:
            raise LinkError(f"a process of a stage is gone: {exc}"[:300]) from exc


class Team(Stage):
    """A stage that several processes of this machine compute together.

    Args:
        checkpoint: Where the tensors are.
        shape: Which layers, and how much room.
        count: How many processes, this one included.
        dtype: Of weights and hidden states.

    Raises:
        ConfigurationError: If the layers cannot be cut into so many parts, or another
            process could not load its part.
        LinkError: If another process died.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: Shape,
        count: int,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        styles_of(checkpoint.config(), count)
        self._turn = threading.Lock()  # what all are told comes in one order
        self._pipes: list[Connection] = []
        self._close = weakref.finalize(self, _closed, self._pipes)
        with tempfile.TemporaryDirectory(prefix="butterfly-") as folder:
            told = folder, torch.get_num_threads()
            place = Place(checkpoint.folder, shape, 0, count, dtype, *told)
            for rank in range(1, count):
                self._pipes.append(_started(replace(place, rank=rank)))
            add = Sum(place)
            shard = Shard.of(checkpoint.config(), 0, count, add)
            super().__init__(checkpoint, shape, dtype=dtype, shard=shard)
            self.adapters: Any = _Adapters(self.adapters, self)
            self._heard()
            self._tell("meet")  # who waits here is woken if this process dies
            add.join()
            self._heard()  # before the folder is gone

    @property
    def is_whole(self) -> bool:
        """Whether all of its processes are here."""
        return self._close.alive

    def forward(
        self, hidden: torch.Tensor, segments: Sequence[Segment]
    ) -> torch.Tensor:
        """Return hidden states after the stage's layers, as `Stage.forward` does.

        Args:
            hidden: `[rows, hidden]`.
            segments: Whose rows they are.

        Raises:
            LinkError: If another process is gone.
        """
        payload = CODECS[_EXACT].encode(hidden)
        frame = Frame(0, 0, tuple(segments), Kind.HIDDEN, payload)
        with self._turn, self._broken_by_errors():
            self._tell("forward", frame.encode())
            return super().forward(hidden, segments)

    def ask(self, what: str, *more: Any) -> None:
        """Let the other processes do something, and wait until they have.

        Args:
            what: The name of a method of their adapters.
            *more: What it is given.

        Raises:
            ConfigurationError: If one says that it cannot be done.
            LinkError: If one is gone.
        """
        with self._turn:
            self._tell(what, *more)
            self._heard()

    def close(self) -> None:
        """End the other processes."""
        self._close()

    @contextlib.contextmanager
    def _broken_by_errors(self) -> Any:
        """End a team whose processes may not be at the same place any more."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _tell(self, *message: Any) -> None:
        try:
            for pipe in self._pipes:
                pipe.send(message)
        except OSError as exc:
            self.close()
            raise LinkError("a process of this stage is gone.") from exc

    def _heard(self) -> None:
        """Wait for the word of all others; raise what one of them says."""
        try:
            said = [pipe.recv() for pipe in self._pipes]
        except (EOFError, OSError) as exc:
            self.close()
            raise LinkError("a process of this stage died.") from exc
        for error in filter(None, said):
            raise ConfigurationError(error)


def stage_of(
    checkpoint: Checkpoint,
    shape: Shape,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    tensor: int = 1,
) -> Stage:
    """Return a stage of one process, or of several.

    Args:
        checkpoint: Where the tensors are.
        shape: Which layers, and how much room.
        dtype: Of weights and hidden states.
        device: Where to compute.
        tensor: How many processes compute each layer together.

    Raises:
        ConfigurationError: If that cannot be.
        LinkError: If one of the processes died.
    """
    if tensor == 1:
        return Stage(checkpoint, shape, dtype=dtype, device=device)
    if device != "cpu":
        raise ConfigurationError(
            f"{tensor} processes compute a layer together on a CPU only, and the "
            f"device is {device!r}: leave out --tensor."
        )
    return Team(checkpoint, shape, tensor, dtype=dtype)


class _Adapters:
    """The adapters of a team: what is loaded is loaded by all.

    Args:
        own: Those of this process.
        team: Whose they are.
    """

    def __init__(self, own: Adapters, team: Team) -> None:
        self._own, self._team = own, weakref.ref(team)
        self.lock, self.select = own.lock, own.select

    @property
    def numbers(self) -> list[int]:
        """The numbers of those that are loaded."""
        return self._own.numbers

    def load(self, number: int, folder: Path) -> None:
        """Load an adapter, as `Adapters.load` does."""
        self._own.load(number, folder)
        self._ask("load", number, folder)

    def unload(self, number: int) -> None:
        """Forget an adapter."""
        self._own.unload(number)
        self._ask("unload", number)

    def _ask(self, what: str, *more: Any) -> None:
        if (team := self._team()) is not None:
            team.ask(what, *more)


def _started(place: Place) -> Connection:
    """Start a process of a team; return the pipe to it."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    spawning.Process(target=helped, args=(theirs, place), daemon=True).start()
    theirs.close()
    return ours


def _closed(pipes: list[Connection]) -> None:
    """Close the pipes: who reads at the other end goes home."""
    for pipe in pipes:
        pipe.close()


def helped(pipe: Connection, place: Place) -> None:
    """Be one of the other processes of a team, until its pipe is closed.

    Args:
        pipe: Where the first one speaks.
        place: What to be.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first one's
    torch.set_num_threads(place.threads)
    with contextlib.suppress(EOFError, OSError, LinkError):
        checkpoint, add = Checkpoint(place.folder), Sum(place)
        shard = Shard.of(checkpoint.config(), place.rank, place.count, add)
        stage = Stage(checkpoint, place.shape, dtype=place.dtype, shard=shard)
        pipe.send("")
        pipe.recv()
        add.join()
        pipe.send("")
        while True:
            what, *more = pipe.recv()
            if what == "forward":
                _computed(stage, more[0])
            else:
                pipe.send(_done(stage, what, more))


def _computed(stage: Stage, data: bytes) -> None:
    """Compute a frame; what comes out is what the first one has, too."""
    frame = Frame.decode(data, 0)
    hidden = CODECS[_EXACT].decode(frame.payload, frame.rows, stage.dtype)
    stage.forward(hidden, frame.segments)


def _done(stage: Stage, what: str, more: Sequence[Any]) -> str:
    """Load or unload an adapter; return what is wrong, empty if nothing is."""
    try:
        (stage.adapters.load if what == "load" else stage.adapters.unload)(*more)
    except ButterflyError as exc:
        return str(exc)
    return ""
