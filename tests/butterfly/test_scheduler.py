"""The scheduler: who is in the next frame. No clock, no network, no model."""

from typing import Any

import pytest

pytest.importorskip("numpy")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from butterfly.errors import CapacityError, RequestError  # noqa: E402
from butterfly.scheduling import Batch, Limits, Scheduler, Sequence  # noqa: E402


def sequence(length: int = 3, limit: int = 4, first: int = 10, **more: Any) -> Sequence:
    """Return a sequence with a prompt of its own."""
    return Sequence([first + k for k in range(length)], limit, **more)


def settled(scheduler: Scheduler, batch: Batch | None, token: int = 7) -> Batch:
    """Let a frame come back, with the same token everywhere."""
    assert batch is not None
    drawn = {s.lane: [token] for s in batch.segments if s.is_sampled}
    return scheduler.settle(batch.step, drawn)


def rows(batch: Batch | None) -> list[tuple[int, int, int]]:
    """Return lane, start and length of each segment."""
    assert batch is not None
    return [(s.lane, s.start, s.length) for s in batch.segments]


def test_a_prompt_travels_in_parts() -> None:
    """Only the last part draws a token; then one row at a time."""
    scheduler = Scheduler(2, 64, chunk=4)
    one = sequence(10, limit=2)
    scheduler.add(one)
    seen = []
    while not one.finish:
        batch = scheduler.plan()
        assert batch is not None
        seen.append((rows(batch)[0], batch.segments[0].is_sampled))
        settled(scheduler, batch)
    assert seen == [
        ((0, 0, 4), False),
        ((0, 4, 4), False),
        ((0, 8, 2), True),
        ((0, 10, 1), True),
    ]
    assert one.output == [7, 7] and one.finish == "length"


def test_parts_of_a_prompt_follow_each_other() -> None:
    """All stages compute parts of it at the same time; its draw is waited for."""
    scheduler = Scheduler(2, 64, frames=3, chunk=4)
    one, gone = sequence(10, limit=3), sequence(10, first=50)
    scheduler.add(one)
    flying = [scheduler.plan() for _ in range(3)]
    assert [rows(batch) for batch in flying] == [[(0, 0, 4)], [(0, 4, 4)], [(0, 8, 2)]]
    assert scheduler.plan() is None
    for batch in flying:
        settled(scheduler, batch)
    assert rows(scheduler.plan()) == [(0, 10, 1)]
    scheduler.add(gone)
    flying = [scheduler.plan(), scheduler.plan()]
    scheduler.abort(gone)
    assert scheduler.plan() is None  # no part of it follows
    settled(scheduler, flying[0])
    assert gone.lane == 1  # the other part still writes there
    settled(scheduler, flying[1])
    assert gone.lane is None


def test_a_long_prompt_does_not_stop_the_others() -> None:
    """Each frame has at most a part of it, beside the next tokens of all others."""
    scheduler = Scheduler(4, 64, chunk=4)
    short = sequence(2, limit=9)
    scheduler.add(short)
    settled(scheduler, scheduler.plan())
    scheduler.add(sequence(12, first=50))
    for _ in range(3):
        batch = settled(scheduler, scheduler.plan())
        assert [s.length for s in batch.segments] == [1, 4]


def test_sequences_are_dealt_into_as_many_frames_as_may_fly() -> None:
    """One frame with all of them would leave all stages but one idle."""
    scheduler = Scheduler(6, 64, frames=3)
    for k in range(6):
        scheduler.add(sequence(1, limit=9, first=10 * k))
    settled(scheduler, scheduler.plan())
    sizes = [len(rows(scheduler.plan())) for _ in range(3)]
    assert sizes == [2, 2, 2] and scheduler.plan() is None
    assert scheduler.in_flight == 3


def test_rows_that_left_singly_meet_again() -> None:
    """Eight in six frames are two in each of four; six would cost half as much more."""
    scheduler = Scheduler(8, 64, frames=6)
    flying = []
    for k in range(6):
        scheduler.add(sequence(1, limit=40, first=10 * k))
        flying.append(scheduler.plan())
    for k in (6, 7):
        scheduler.add(sequence(1, limit=40, first=10 * k))
    for _ in range(30):
        settled(scheduler, flying.pop(0))
        while (batch := scheduler.plan()) is not None:
            flying.append(batch)
    assert [len(rows(batch)) for batch in flying] == [2, 2, 2, 2]


def test_a_cap_on_rows_takes_turns() -> None:
    """However few may travel: nobody goes twice before all went once."""
    scheduler = Scheduler(6, 64, frames=2, cap=2)
    for k in range(6):
        scheduler.add(sequence(1, limit=9, first=10 * k))
    settled(scheduler, scheduler.plan())
    went = []
    for _ in range(6):
        batch = settled(scheduler, scheduler.plan())
        assert len(batch.segments) == 2
        went += [s.lane for s in batch.segments]
    assert went == [0, 1, 2, 3, 4, 5] * 2


def test_prompts_are_cut_smaller_beside_those_who_decode() -> None:
    """Alone they travel in large parts, since nobody waits for them."""
    scheduler = Scheduler(2, 64, chunk=8, beside=3)
    scheduler.add(sequence(8, limit=9))
    assert rows(settled(scheduler, scheduler.plan())) == [(0, 0, 8)]
    scheduler.add(sequence(6, limit=9, first=50))
    seen = [rows(settled(scheduler, scheduler.plan())) for _ in range(3)]
    assert seen[0] == [(0, 8, 1), (1, 0, 3)]
    assert seen[1] == [(0, 9, 1), (1, 3, 3)]
    assert seen[2] == [(0, 10, 1), (1, 6, 1)]


def test_a_new_epoch_may_have_other_limits() -> None:
    """Lanes, frames, rows and parts of prompts."""
    scheduler = Scheduler(1, 64)
    scheduler.reset(Limits(4, frames=3, cap=1, chunk=5, beside=2))
    assert (scheduler.lanes, scheduler.frames, scheduler.cap) == (4, 3, 1)
    assert (scheduler.chunk, scheduler.beside) == (5, 2)
    scheduler.reset()
    assert (scheduler.lanes, scheduler.frames) == (4, 3)


def test_a_sequence_is_in_one_frame_at_a_time() -> None:
    """Its next token is drawn at the end of the ring."""
    scheduler = Scheduler(2, 64, frames=2)
    scheduler.add(sequence())
    assert scheduler.plan() is not None
    assert scheduler.plan() is None


def test_lanes_go_to_higher_priority_then_to_age() -> None:
    """The others wait for a lane."""
    scheduler = Scheduler(1, 64)
    low, old, high = sequence(), sequence(), sequence(priority=1)
    for one in (low, old, high):
        scheduler.add(one)
    batch = settled(scheduler, scheduler.plan())
    assert batch.sequences == (high,)
    assert scheduler.waiting == [low, old]


def test_what_a_lane_still_holds_is_used_again() -> None:
    """Up to the row whose token is drawn; other adapters compute other keys."""
    scheduler = Scheduler(2, 64)
    first = sequence(8, limit=1)
    scheduler.add(first)
    settled(scheduler, scheduler.plan())
    again, other = sequence(8, limit=1), sequence(8, limit=1, adapter=1)
    scheduler.add(again)
    assert rows(scheduler.plan()) == [(0, 7, 1)]
    assert scheduler.reused == 7
    scheduler.add(other)
    scheduler.frames = 2
    assert rows(scheduler.plan()) == [(1, 0, 8)]
    off = Scheduler(2, 64, reuse=False)
    for _ in range(2):
        off.add(sequence(8, limit=1))
        assert rows(settled(off, off.plan()))[0][1:] == (0, 8)


def test_a_stop_token_ends_a_sequence_and_is_not_output() -> None:
    """The lane is free at once."""
    scheduler = Scheduler(1, 64)
    one = Sequence([1, 2], 9, stops=frozenset([7]))
    scheduler.add(one)
    settled(scheduler, scheduler.plan())
    assert (one.finish, one.output, one.lane) == ("stop", [], None)
    assert scheduler.running == {}


def test_what_does_not_fit_is_refused() -> None:
    """No tokens, too many tokens, too many that wait; a limit is lowered to fit."""
    scheduler = Scheduler(1, 8, most_waiting=1)
    with pytest.raises(RequestError, match="has no tokens"):
        scheduler.add(Sequence([], 1))
    with pytest.raises(RequestError, match="has 8 tokens, and there is room for 7"):
        scheduler.add(sequence(8))
    one = sequence(5, limit=99)
    scheduler.add(one)
    assert one.limit == 3
    with pytest.raises(CapacityError, match="1 requests wait already"):
        scheduler.add(sequence())


def test_an_aborted_sequence_leaves_its_lane_when_its_frame_is_back() -> None:
    """Not before: the frame still writes there."""
    scheduler = Scheduler(1, 64)
    one, other = sequence(), sequence()
    scheduler.add(one)
    scheduler.add(other)
    batch = scheduler.plan()
    scheduler.abort(one)
    assert scheduler.plan() is None
    settled(scheduler, batch)
    assert one.output == [] and one.finish == "abort"
    scheduler.abort(other)
    assert scheduler.plan() is None and scheduler.waiting == []


def test_a_new_epoch_sends_what_was_generated_as_prompt() -> None:
    """To the front of the line, and nothing is drawn twice."""
    scheduler = Scheduler(2, 64)
    one = sequence(3, limit=5)
    scheduler.add(one)
    for _ in range(2):
        settled(scheduler, scheduler.plan())
    scheduler.plan()
    scheduler.reset(Limits(2, frames=2))
    assert scheduler.in_flight == 0
    batch = scheduler.plan()
    assert rows(batch) == [(0, 0, 5)]
    assert batch is not None and batch.tokens == (10, 11, 12, 7, 7)
    settled(scheduler, batch, 8)
    assert one.output == [7, 7, 8]


def test_answers_to_one_prompt_compute_it_once() -> None:
    """The others wait for its rows, copy its lane, and send one row each."""
    scheduler = Scheduler(4, 64, frames=3, chunk=8)
    for _ in range(4):
        scheduler.add(sequence(12, limit=2))
    assert rows(scheduler.plan()) == [(0, 0, 8)]
    assert rows(scheduler.plan()) == [(0, 8, 4)]
    others = scheduler.plan()  # though the frames before are still on their way
    assert others is not None
    assert [(s.lane, s.source, s.shared, s.start) for s in others.segments] == [
        (lane, 0, 11, 11) for lane in (1, 2, 3)
    ]
    assert scheduler.rows == 12 + 3 and scheduler.reused == 33


def test_what_a_lane_in_use_holds_is_copied() -> None:
    """Also parts of what others generated; not from another adapter, nor if told."""
    scheduler = Scheduler(2, 64)
    first = sequence(8, limit=9)
    scheduler.add(first)
    for _ in range(3):
        settled(scheduler, scheduler.plan())
    again = Sequence([*first.tokens[:9], 99], 1)
    scheduler.add(again)
    batch = settled(scheduler, scheduler.plan())
    assert [(s.lane, s.source, s.start, s.length) for s in batch.segments] == [
        (0, -1, 10, 1),
        (1, 0, 9, 1),
    ]
    assert again.reused == 9
    for more in ({"adapter": 1}, {"prompt_logprobs": True}):
        scheduler.add(sequence(8, limit=1, **more))
        assert rows(settled(scheduler, scheduler.plan()))[1] == (1, 0, 8)


def test_little_in_common_is_not_waited_for() -> None:
    """Two prompts that part early travel in one frame."""
    scheduler = Scheduler(2, 64)
    for last in (1, 2):
        scheduler.add(Sequence([5, 6, *[last] * 9], 1))
    assert rows(scheduler.plan()) == [(0, 0, 11), (1, 0, 11)]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=9), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 8),
    st.data(),
)
def test_a_lane_holds_what_its_sequence_says(
    asked: list[tuple[list[int], bool]],
    lanes: int,
    frames: int,
    chunk: int,
    data: st.DataObject,
) -> None:
    """With copies, ends, new epochs and frames on their way: stages are in order."""
    scheduler = Scheduler(lanes, 32, frames=frames, chunk=chunk)
    stage: list[list[tuple[int, int]]] = [[] for _ in range(lanes)]  # adapter, token
    flying: list[Batch] = []
    sequences = [Sequence(prompt, 3, adapter=int(b)) for prompt, b in asked]
    for one in sequences:
        scheduler.add(one)
    while not all(one.finish for one in sequences):
        while (batch := scheduler.plan()) is not None:
            flying.append(batch)
            for part in batch.segments:
                if part.source >= 0:
                    stage[part.lane][: part.shared] = stage[part.source][: part.shared]
            at = 0
            for one, part in zip(batch.sequences, batch.segments, strict=True):
                lane, end = stage[part.lane], part.start + part.length
                new = batch.tokens[at : at + part.length]
                lane[part.start :] = [(part.adapter, token) for token in new]
                at += part.length
                assert lane == [(one.adapter, token) for token in one.tokens[:end]]
        event = data.draw(st.sampled_from(["settle"] * 6 + ["abort", "reset"]))
        if event == "abort":
            scheduler.abort(data.draw(st.sampled_from(sequences)))
        elif event == "reset":
            scheduler.reset()
            flying.clear()
        elif flying:
            settled(scheduler, flying.pop(0), data.draw(st.integers(0, 1)))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 8),
    st.data(),
)
def test_every_sequence_gets_all_its_tokens_in_order(
    asked: list[tuple[int, int]],
    lanes: int,
    frames: int,
    chunk: int,
    data: st.DataObject,
) -> None:
    """Whatever comes back first; each row is computed once, at its own position."""
    scheduler = Scheduler(lanes, 32, frames=frames, chunk=chunk, reuse=False)
    sequences = [sequence(n, limit, first=100 * n) for n, limit in asked]
    done: dict[int, list[int]] = {one_id: [] for one_id in map(id, sequences)}
    for one in sequences:
        scheduler.add(one)
    flying: list[Batch] = []
    while not all(one.finish for one in sequences):
        while (batch := scheduler.plan()) is not None:
            flying.append(batch)
            for one, part in zip(batch.sequences, batch.segments, strict=True):
                done[id(one)] += range(part.start, part.start + part.length)
        assert 0 < len(flying) <= frames
        batch = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        assert sum(s.length for s in batch.segments) <= chunk + lanes
        settled(scheduler, batch)
    for one, (_, limit) in zip(sequences, asked, strict=True):
        assert len(one.output) == limit
        assert done[id(one)] == list(range(one.length - 1))
