"""`state_of`: what a cluster is like, for those who watch."""

import asyncio

from butterfly.cluster.head import Head
from butterfly.cluster.members import Member
from butterfly.communication.codecs import CODECS
from butterfly.monitoring.metrics import StageState, State


def state_of(head: Head) -> State:
    """Return what the cluster of a head is like; for the thread of its event loop.

    Args:
        head: The head.
    """
    line, split = head.scheduler, head.planning.current
    members = [m for m in head.members if m.role and m.role.epoch == head.epoch]
    members.sort(key=lambda m: m.role.rank if m.role else 0)
    return State(
        epoch=head.epoch,
        is_serving=head.is_serving,
        is_asleep=head.is_asleep,
        nodes=len(head.members),
        running=len(line.running),
        waiting=len(line.waiting),
        frames=line.in_flight,
        used=sum(sequence.length for sequence in line.running.values()),
        room=line.lanes * line.positions,
        reused=line.reused,
        split="" if split is None else split.rule,
        rows=line.rows,
        proposed=line.proposed,
        accepted=line.accepted,
        tasks=len(asyncio.all_tasks()),
        stages=tuple([_stage(member) for member in members]),
    )


def _stage(member: Member) -> StageState:
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
        memory=float(member.about.get("memory", 0)),
    )
