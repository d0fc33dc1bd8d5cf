"""The pump: what comes back damaged, and what cannot be sent, stops nobody else."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("torch")

from butterfly.cluster.patience import Patience  # noqa: E402
from butterfly.cluster.pump import Pump  # noqa: E402
from butterfly.communication.links import Traffic  # noqa: E402
from butterfly.scheduling import Scheduler, Sequence  # noqa: E402


class Ring:
    """A ring that takes frames."""

    epoch = 3
    received = Traffic()

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def send(self, frame: Any) -> None:
        """Take one."""
        self.frames.append(frame)


def begun(told: list[tuple[int, str]]) -> tuple[Pump, Ring]:
    """Return a pump with a ring; it tells of the epochs that broke."""
    ring = Ring()
    broke = lambda epoch, why: told.append((epoch, why))  # noqa: E731
    pump = Pump(Scheduler(2, 64), broke, lambda _: None, Patience(1.0))
    pump.ring = ring  # ty: ignore[invalid-assignment]
    return pump, ring


@pytest.mark.parametrize(("step", "payload"), [(9, b""), (1, b""), (1, b"abc")])
def test_a_damaged_result_ends_the_epoch(step: int, payload: bytes) -> None:
    """Of no frame that is out, or too short: nobody waits for what never comes."""
    told: list[tuple[int, str]] = []

    async def main() -> None:
        pump, ring = begun(told)
        asked = asyncio.ensure_future(anext(pump.generate(Sequence([1, 2], 4))))
        await asyncio.sleep(0)
        assert [frame.step for frame in ring.frames] == [1]
        pump._arrived(ring, step, payload, ())  # ty: ignore[invalid-argument-type]
        asked.cancel()

    asyncio.run(main())
    ((epoch, why),) = told
    assert epoch == 3 and why.startswith(f"frame {step} came back damaged: ")


def test_a_sequence_that_cannot_be_sent_leaves_nothing() -> None:
    """Its own client sees the error; the next one is served."""

    class Odd:
        def allowed(self) -> bytes:
            raise OverflowError

        def accept(self, token: int) -> None:
            del token

    async def main() -> None:
        pump, ring = begun([])
        with pytest.raises(OverflowError):
            await anext(pump.generate(Sequence([1, 2], 4, constraint=Odd())))
        assert not (pump._queues or pump.scheduler.running or ring.frames)
        asked = asyncio.ensure_future(anext(pump.generate(Sequence([1, 2], 4))))
        await asyncio.sleep(0)
        assert [frame.step for frame in ring.frames] == [1]
        asked.cancel()

    asyncio.run(main())
