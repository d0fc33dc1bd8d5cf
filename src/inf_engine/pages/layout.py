"""Where the boxes of a layered graph stand.

Boxes come with a row; an edge points to a lower row. An edge over several rows goes
through a narrow stand-in box in each row between, so that it bends around the others.
Then, as in Sugiyama, Tagawa and Toda (1981): rows are ordered by sweeps up and down,
each box to the mean place of its neighbours; boxes of one group stay together. Last,
each row takes the places nearest to the means of its neighbours that keep order and
distance, which is isotonic regression (pool adjacent violators). No chance in it:
the same boxes give the same picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

ROW_GAP = 38.0
BOX_GAP = 20.0
GROUP_GAP = 14.0
ORDER_SWEEPS = 8
PLACE_SWEEPS = 10
MOST_STAND_INS = 2500

Point = tuple[float, float]
Edge = tuple[int, int]


@dataclass(slots=True)
class Box:
    """A box to place.

    Args:
        width: Its width, pixels.
        height: Its height, pixels.
        row: Its row, from 0 at the top.
        groups: The groups it stands in, outermost first.
        x: Its middle; set by `arrange`.
        y: Its top; set by `arrange`.
    """

    width: float
    height: float
    row: int
    groups: tuple[int, ...] = ()
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class _Net:
    """Boxes and stand-ins, with their rows and neighbours, by number."""

    boxes: list[Box]
    rows: list[list[int]]
    above: list[list[int]] = field(default_factory=list)
    below: list[list[int]] = field(default_factory=list)


def arrange(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[list[Point]]:
    """Set `x` and `y` of each box, the leftmost edge at 0.

    Args:
        boxes: The boxes.
        edges: Pairs of box numbers, upper box first.

    Returns:
        For each edge, the points it goes through, from the upper box to the lower.
    """
    height = max((box.row for box in boxes), default=-1) + 1
    net = _Net(list(boxes), [[] for _ in range(height)])
    chains = _chains(net, edges)
    for number, box in enumerate(net.boxes):
        net.rows[box.row].append(number)
    net.rows = [row for row in net.rows if row]
    net.above = [[] for _ in net.boxes]
    net.below = [[] for _ in net.boxes]
    for chain in chains:
        for upper, lower in zip(chain, chain[1:], strict=False):
            net.below[upper].append(lower)
            net.above[lower].append(upper)
    _order(net)
    _spread(net)
    _stack(net)
    return [_route(net, chain) for chain in chains]


def _chains(net: _Net, edges: Sequence[Edge]) -> list[list[int]]:
    """Return each edge as a chain of boxes; short edges get their stand-ins first."""
    chains: list[list[int]] = [[] for _ in edges]
    boxes = net.boxes

    def span(number: int) -> int:
        upper, lower = edges[number]
        return boxes[lower].row - boxes[upper].row

    most = len(boxes) + MOST_STAND_INS
    for number in sorted(range(len(edges)), key=span):
        upper, lower = edges[number]
        chain = [upper]
        if len(boxes) + span(number) <= most:
            groups = _common(boxes[upper].groups, boxes[lower].groups)
            for row in range(boxes[upper].row + 1, boxes[lower].row):
                chain.append(len(boxes))
                boxes.append(Box(6.0, 0.0, row, groups))
        chains[number] = [*chain, lower]
    return chains


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[:same]


def _order(net: _Net) -> None:
    """Order the boxes of each row."""
    place = [0.0] * len(net.boxes)
    for row in net.rows:
        _sort(net, row, [float(number) for number in row])
        for index, number in enumerate(row):
            place[number] = float(index)
    for sweep in range(ORDER_SWEEPS):
        down = sweep % 2 == 0
        near = net.above if down else net.below
        for row in net.rows if down else reversed(net.rows):
            _sort(net, row, [_mean(near[n], place, place[n]) for n in row])
            for index, number in enumerate(row):
                place[number] = float(index)


def _mean(numbers: Sequence[int], values: Sequence[float], default: float) -> float:
    if not numbers:
        return default
    return sum([values[number] for number in numbers]) / len(numbers)


def _sort(net: _Net, row: list[int], wishes: list[float]) -> None:
    """Sort a row by wishes, the boxes of one group side by side."""
    wish = dict(zip(row, wishes, strict=True))
    members: dict[int, list[float]] = {}
    for number in row:
        for group in net.boxes[number].groups:
            members.setdefault(group, []).append(wish[number])
    means = {group: sum(found) / len(found) for group, found in members.items()}
    place = {number: index for index, number in enumerate(row)}

    def key(number: int) -> tuple[tuple[float, int, int], ...]:
        groups = net.boxes[number].groups
        outer = [(means[group], 0, group) for group in groups]
        return (*outer, (wish[number], 1, place[number]))

    row.sort(key=key)


def _spread(net: _Net) -> None:
    """Give each box its middle."""
    boxes = net.boxes
    for row in net.rows:
        _settle(net, row, [0.0] * len(row))
    for sweep in range(PLACE_SWEEPS):
        down = sweep % 2 == 0
        near = net.above if down else net.below
        xs = [box.x for box in boxes]
        for row in net.rows if down else reversed(net.rows):
            _settle(net, row, [_mean(near[n], xs, boxes[n].x) for n in row])
            for number in row:
                xs[number] = boxes[number].x
    left = min((box.x - box.width / 2 for box in boxes), default=0.0)
    for box in boxes:
        box.x -= left


def _settle(net: _Net, row: list[int], wishes: list[float]) -> None:
    """Place a row nearest to the wishes, in order and without overlap."""
    offsets = [0.0]
    for left, right in zip(row, row[1:], strict=False):
        offsets.append(offsets[-1] + _distance(net.boxes[left], net.boxes[right]))
    pools: list[tuple[float, int]] = []  # the sum and number of the wishes in a pool
    for wish, offset in zip(wishes, offsets, strict=True):
        total, count = wish - offset, 1
        while pools and pools[-1][0] * count >= total * pools[-1][1]:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    places = [total / count for total, count in pools for _ in range(count)]
    for number, place, offset in zip(row, places, offsets, strict=True):
        net.boxes[number].x = place + offset


def _distance(left: Box, right: Box) -> float:
    same = len(_common(left.groups, right.groups))
    borders = len(left.groups) + len(right.groups) - 2 * same
    return (left.width + right.width) / 2 + BOX_GAP + GROUP_GAP * borders


def _stack(net: _Net) -> None:
    """Give each row its height and each box its top, boxes in the middle of a row."""
    top = 0.0
    for row in net.rows:
        height = max((net.boxes[number].height for number in row), default=0.0)
        for number in row:
            net.boxes[number].y = top + (height - net.boxes[number].height) / 2
        top += height + ROW_GAP


def _route(net: _Net, chain: list[int]) -> list[Point]:
    upper, lower = net.boxes[chain[0]], net.boxes[chain[-1]]
    between = [net.boxes[number] for number in chain[1:-1]]
    bends = [(box.x, box.y) for box in between]
    return [(upper.x, upper.y + upper.height), *bends, (lower.x, lower.y)]
