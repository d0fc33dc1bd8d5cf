"""The pump: what comes back damaged, and what cannot be sent, stops nobody else."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("torch")

from butterfly.cluster.patience import Patience  # noqa: E402
from butterfly.cluster.pump import Pump  # noqa: E402
from butterfly.communication.links import Traffic  # noqa: E402
from butterfly.communication.penalties import Penalties  # noqa: E402
from butterfly.engine.sampling import Drawn, pack  # noqa: E402
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

    async def main() -> None:
        pump, ring = begun([])
        with pytest.raises(OverflowError):
            await anext(pump.generate(Sequence([1, 2], 4, constraint=Odd("before"))))
        assert not (pump._queues or pump.scheduler.running or ring.frames)
        asked = asyncio.ensure_future(anext(pump.generate(Sequence([1, 2], 4))))
        await asyncio.sleep(0)
        assert [frame.step for frame in ring.frames] == [1]
        asked.cancel()

    asyncio.run(main())


class Odd:
    """A grammar that fails, before a token is drawn or after."""

    def __init__(self, when: str) -> None:
        self.when = when

    def fits(self, draft: list[int]) -> int:
        """Say that none may be drawn."""
        del draft
        return 0

    def allowed(self, draft: list[int]) -> bytes:
        """Say which tokens may be drawn."""
        if self.when == "before":
            raise OverflowError
        return b""

    def accept(self, token: int) -> None:
        """Take a token."""
        raise OverflowError(token)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sequence_that_goes_wrong_ends_alone(when: str) -> None:
    """In another one's turn: that one has its token, and goes on as it was told of."""

    async def main() -> None:
        pump, ring = begun([])
        well = Sequence([1, 2], 4, penalties=Penalties(repetition=1.1))
        one = pump.generate(well)
        asked = [asyncio.ensure_future(anext(one))]
        await asyncio.sleep(0)
        odd = Sequence([1, 2, 3], 4, constraint=Odd(when))
        asked.append(asyncio.ensure_future(anext(pump.generate(odd))))
        await asyncio.sleep(0)
        for step in (1, 2):
            drawn = [Drawn(part.lane, 7) for part in ring.frames[-1].segments]
            pump._arrived(ring, step, pack(drawn), ())  # ty: ignore[invalid-argument-type]
            await asyncio.sleep(0)
        with pytest.raises(OverflowError):
            await asked[1]
        assert (await asked[0]).drawn.token == 7
        assert odd not in pump._queues and well.output == [7, 7]
        assert [frame.step for frame in ring.frames] == [1, 2, 3]
        assert well.heard == 2 and pump.scheduler.running == {well.lane: well}

    asyncio.run(main())
