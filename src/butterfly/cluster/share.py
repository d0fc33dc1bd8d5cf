"""`Share`: the nodes of one ring, its standbys included."""

from collections.abc import Callable

from butterfly.cluster.members import Member


class Share:
    """The nodes of one ring.

    Args:
        stages: How many of them are to be stages.
        dismiss: Sends a node away and tells it why.

    Attributes:
        members: The nodes: first those that are to be stages, then standbys.
    """

    def __init__(self, stages: int, dismiss: Callable[[Member, str], None]) -> None:
        self.members: list[Member] = []
        self.stages, self.dismiss = stages, dismiss

    @property
    def is_short(self) -> bool:
        """Whether there are fewer nodes than stages were asked for."""
        return len(self.members) < self.stages

    def add(self, member: Member) -> None:
        """Take a node; what it was in another ring is over.

        Args:
            member: The node.
        """
        member.role = member.prepared = member.speed = None
        self.members.append(member)

    def remove(self, member: Member) -> None:
        """Forget a node; a standby takes its place in the ring.

        Args:
            member: The node.
        """
        place = self.members.index(member)
        del self.members[place]
        if place < self.stages <= len(self.members):
            self.members.insert(place, self.members.pop(self.stages - 1))
