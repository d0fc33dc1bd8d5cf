"""The ring over gloo: frames in order, early receives, ends that close."""

import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

from butterfly.communication.frames import Frame, Kind, Segment  # noqa: E402
from butterfly.communication.links import Ring  # noqa: E402
from butterfly.errors import LinkError  # noqa: E402


def rings(count: int, **options: Any) -> list[Ring]:
    """Return the ends of all ranks of one epoch, in this process."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    found: list[Any] = [None] * count
    more: dict[str, Any] = {"frame_bytes": 1 << 16, "patience": 20.0, **options}

    def join(rank: int) -> None:
        own = dist.TCPStore("127.0.0.1", store.port, None, False)
        place = own, "epoch", 1, rank, count
        found[rank] = Ring(*place, **more)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def frame(step: int, size: int = 8) -> Frame:
    """Return a frame with a payload of some size."""
    return Frame(1, step, (Segment(0, step, 2),), Kind.TOKENS, bytes(range(size)))


def test_frames_go_round_in_order() -> None:
    """More than there are receives posted, and of different sizes."""
    first, second, third = rings(3, depth=2)
    for step in range(6):
        first.send(frame(step, 10 * step))
        for one, after in ((second, third), (third, first)):
            one.send(one.receive())
            assert after is not one
        back = first.receive()
        assert (back.step, bytes(back.payload)) == (step, bytes(range(10 * step)))
    assert first.sent.frames == third.received.frames == 6
    assert first.sent.bytes == sum(frame(k, 10 * k).nbytes for k in range(6))


def test_sending_does_not_wait_for_who_receives() -> None:
    """As many frames as receives are posted may be on their way."""
    head, stage = rings(2, depth=3)
    for step in range(3):
        head.send(frame(step))
    assert head.sent.waited == 0.0
    assert [stage.receive().step for _ in range(3)] == [0, 1, 2]


def test_a_closed_end_breaks_the_ring() -> None:
    """Whoever waits is told, by rank and epoch."""
    ends = rings(2)
    seen: list[BaseException] = []

    def wait(ring: Ring) -> None:
        try:
            ring.receive()
        except LinkError as exc:
            seen.append(exc)

    thread = threading.Thread(target=wait, args=(ends.pop(0),))
    thread.start()
    ends.clear()
    thread.join(10)
    assert not thread.is_alive()
    assert "the link to rank 1 broke in epoch 1" in str(seen[0])


def test_who_does_not_come_is_missed() -> None:
    """After the patience that was given."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    with pytest.raises(LinkError, match="join epoch 3 within 0.2 s: without rank 1"):
        Ring(store, "x", 3, 0, 2, frame_bytes=64, patience=0.2)


def test_nobody_waits_for_a_ring_that_is_needed_no_more() -> None:
    """However long its patience; who waits is told."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    own = dist.TCPStore("127.0.0.1", store.port, None, False)  # a wait locks its client
    over, said = threading.Event(), list[str]()

    def join() -> None:
        with pytest.raises(LinkError) as caught:
            Ring(own, "x", 3, 0, 2, frame_bytes=64, patience=600.0, over=over)
        said.append(str(caught.value))

    thread = threading.Thread(target=join)
    thread.start()
    own = dist.TCPStore("127.0.0.1", store.port, None, False)  # else it may wait for us
    own.wait(["x/here/0"])  # it is there, and waits
    over.set()
    thread.join(10)
    assert said and said[0].endswith("the ring is needed no more")


def test_an_aborted_end_wakes_all_who_wait_on_it() -> None:
    """Its own thread and those of its neighbours, though nobody died."""
    ends = rings(3)
    woken: list[int] = []

    def wait(rank: int) -> None:
        with pytest.raises(LinkError, match="broke in epoch 1"):
            ends[rank].receive()
        woken.append(rank)

    threads = [threading.Thread(target=wait, args=(rank,)) for rank in (1, 2)]
    for thread in threads:
        thread.start()
    ends[1].abort()  # its thread reads from 0, and that of 2 from it
    for thread in threads:
        thread.join(10)
    assert sorted(woken) == [1, 2]
    with pytest.raises(LinkError, match="broke in epoch 1"):
        for _ in range(9):
            ends[1].send(frame(1))
