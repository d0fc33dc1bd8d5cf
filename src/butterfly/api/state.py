"""`state_of`: what a cluster is like, for those who watch."""

import asyncio

from butterfly.cluster.epochs import Epochs
from butterfly.cluster.head import Head
from butterfly.cluster.members import Member
from butterfly.communication.codecs import CODECS
from butterfly.monitoring.metrics import RingState, StageState, State


def state_of(head: Head) -> State:
    """Return what the cluster of a head is like; for the thread of its event loop.

    Args:
        head: The head.
    """
    lines = [ring.pump.scheduler for ring in head.rings]
    splits = [ring.planning.current for ring in head.rings]
    running = [sequence for line in lines for sequence in line.running.values()]
    return State(
        epoch=head.epoch,
        is_serving=head.is_serving,
        is_asleep=head.is_asleep,
        nodes=len(head.members),
        running=len(running),
        waiting=sum(len(line.waiting) for line in lines),
        frames=sum(line.in_flight for line in lines),
        used=sum(sequence.length for sequence in running),
        room=sum(line.lanes * line.positions for line in lines),
        reused=sum(line.reused for line in lines),
        split=next((split.rule for split in splits if split is not None), ""),
        rows=sum(line.rows for line in lines),
        proposed=sum(line.proposed for line in lines),
        accepted=sum(line.accepted for line in lines),
        tasks=len(asyncio.all_tasks()),
        stages=tuple(
            [
                _stage(member, number)
                for number, ring in enumerate(head.rings, 1)
                for member in ring.stages
            ]
        ),
        rings=tuple([_ring(ring) for ring in head.rings]),
    )


def _ring(ring: Epochs) -> RingState:
    line = ring.pump.scheduler
    return RingState(
        *(ring.epoch, ring.pump.ring is not None, len(ring.members)),
        *(len(line.running), len(line.waiting), line.rows),
    )


def _stage(member: Member, ring: int) -> StageState:
    assert member.role is not None
    told = member.told if member.told.get("epoch") == member.role.epoch else {}
    _, sent, halted = told.get("sent", (0, 0, 0.0))
    _, received, waited = told.get("received", (0, 0, 0.0))
    return StageState(
        *(member.role.rank, member.name, int(member.about.get("pid", 0))),
        *(member.role.first, member.role.last),
        busy=told.get("busy", 0.0),
        sent_bytes=sent,
        sent_waited=halted,
        received_bytes=received,
        received_waited=waited,
        codec=CODECS[member.role.codec].name,
        ring=ring,
        memory=float(member.about.get("memory", 0)),
    )
