"""Several chains side by side: the nodes in groups, each group a chain of its own.

One long chain over many nodes waits for itself: a token passes all of them, and the
requests that the KV cache holds do not fill them. Short chains of few nodes hold the
model several times, each serves its part of the requests. Nodes that are alike (speed)
are dealt out to balance the chains, or kept together, so that the slow do not delay
the fast; which is better is for the simulator to say.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from butterfly.errors import InfeasibleError
from butterfly.partitioning.chain import Chain
from butterfly.partitioning.cluster import Cluster, Node
from butterfly.partitioning.exact import FreeRoute
from butterfly.partitioning.problem import Problem
from butterfly.partitioning.solver import busiest_chain
from butterfly.partitioning.table import kinds_of

Groups = list[list[Node]]
FEW_STATES = 300


def placements(problem: Problem, most: int = 16) -> Iterator[tuple[str, list[Chain]]]:
    """Yield placements on several chains, with a word on how each was made.

    Args:
        problem: The machines, the model and the requests.
        most: The largest number of chains to try.
    """
    seen = set()
    for word, groups in _groupings(problem, most):
        groups = [group for group in groups if _room(problem, group)]
        key = tuple(tuple(sorted(node.name for node in group)) for group in groups)
        if len(groups) > 1 and key not in seen:
            seen.add(key)
            chains = _solved(problem, groups)
            if len(chains) > 1:
                yield word, chains


def _groupings(problem: Problem, most: int) -> Iterator[tuple[str, Groups]]:
    """Yield nodes in groups."""
    nodes = sorted(problem.cluster.nodes, key=lambda n: problem.layer_seconds(n, 8))
    limit = min(most, len(nodes), problem.workload.requests, _copies(problem))
    for number in range(2, limit + 1):
        dealt: Groups = [[] for _ in range(number)]
        for index, node in enumerate(nodes):
            turn, place = divmod(index, number)
            dealt[place if turn % 2 == 0 else number - 1 - place].append(node)
        yield f"{number} chains, nodes dealt out by speed", dealt
        yield f"{number} chains of nodes of like speed", _cut(problem, nodes, number)
    kinds = kinds_of(problem.cluster)
    yield "a chain for each kind of node", kinds
    if len(kinds) <= 12:
        yield "chains of one kind of node each", _by_kind(problem, kinds)


def _copies(problem: Problem) -> int:
    """Return how many copies of the model the memory holds."""
    room = sum(node.memory_bytes for node in problem.cluster.nodes)
    return int(room / problem.model.weight_bytes)


def _room(problem: Problem, group: list[Node]) -> bool:
    """Say whether a group has the memory for the weights."""
    room = sum(node.memory_bytes for node in group)
    return room >= problem.model.weight_bytes


def _cut(problem: Problem, nodes: list[Node], number: int) -> Groups:
    """Return neighbours in groups of about equal memory."""
    share = sum(node.memory_bytes for node in nodes) / number
    groups, room = [list[Node]()], 0.0
    for node in nodes:
        if room >= share * len(groups) * (1 - 1e-9) and len(groups) < number:
            groups.append([])
        groups[-1].append(node)
        room += node.memory_bytes
    return groups


def _by_kind(problem: Problem, kinds: Groups) -> Groups:
    """Return as many groups of each kind as it holds copies of the model."""
    groups = []
    for kind in kinds:
        room = sum(node.memory_bytes for node in kind)
        copies = max(1, int(room / (problem.model.weight_bytes * 1.1)))
        groups += [kind[i::copies] for i in range(copies)]
    return groups


def _solved(problem: Problem, groups: Groups) -> list[Chain]:
    """Return the best chain of each group, the requests shared out by speed."""
    speeds = [sum(1 / problem.layer_seconds(n, 8) for n in group) for group in groups]
    chains = []
    for group, speed in zip(groups, speeds, strict=True):
        share = math.ceil(problem.workload.requests * speed / sum(speeds))
        try:
            chains.append(chain_on(problem, group, share))
        except InfeasibleError:
            continue
    return chains


def chain_on(
    problem: Problem, group: list[Node], requests: int, states: int = FEW_STATES
) -> Chain:
    """Return the busiest chain on some nodes with some of the requests.

    Args:
        problem: The whole problem.
        group: The nodes.
        requests: Their part of the requests.
        states: The most subsets of nodes for which the order is found exactly; with
            more, the slow nodes come first.

    Raises:
        InfeasibleError: The model does not fit on them.
    """
    cluster = Cluster(
        tuple(group),
        problem.cluster.links,
        problem.cluster.default_link,
        problem.cluster.head,
    )
    work = replace(problem.workload, requests=max(1, requests))
    part = replace(problem, cluster=cluster, workload=work)
    if FreeRoute([len(kind) for kind in kinds_of(cluster)]).states <= states:
        return busiest_chain(part)
    nodes = sorted(group, key=lambda node: -problem.layer_seconds(node, 8))
    ordered = replace(cluster, nodes=tuple(nodes))
    return busiest_chain(replace(part, cluster=ordered), given_order=True)
