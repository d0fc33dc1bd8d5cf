"""Exact placements on one chain: dynamic programs over stages, kinds and layers.

One program serves all: the state is (which nodes are used, the last of them, layers
placed), the value the least ring time so far, and a limit on the beat forbids slow
stages and links. What "which nodes are used" means is the *route*:

- `FreeRoute`: how many of each kind. With every kind of size one that is the bitmask
  program over subsets; with many equal nodes it is small.
- `FixedRoute`: nothing but the last one; nodes keep their order, some may be left out.

For one end of a range, the best beginning is a minimum over a window of `value -
layer_s * cost`, and the windows only move forward: a monotone queue makes each
transition linear in the layers. With `beat` unlimited the result is the least latency.
The least cycle `max(ring, beats * beat)` is found by bisection over the values a beat
can have, since the ring time falls with the limit while `beats * beat` rises. The
least beat alone is the first limit for which there is a placement at all.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from butterfly.partitioning.table import Table

Values = list[float]
Level = dict[int, dict[int, Values]]
Part = tuple[int, int, int]
INF = math.inf


class Route(Protocol):
    """Which node may come after which."""

    def starts(self) -> Iterator[tuple[int, int]]:
        """Yield (key, kind) of each possible first stage."""
        ...

    def step(self, key: int, last: int, kind: int) -> int | None:
        """Return the key after another stage, None if it may not follow."""
        ...

    def back(self, key: int, kind: int) -> int:
        """Return the key before the stage of `kind`."""
        ...

    def left(self, key: int, last: int) -> tuple[int, ...]:
        """Return how many nodes of each kind may still follow."""
        ...


class FreeRoute:
    """Any order, each node once.

    Args:
        counts: How many nodes there are of each kind.
    """

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.units = [math.prod(c + 1 for c in counts[:i]) for i in range(len(counts))]

    @property
    def states(self) -> int:
        """How many ways there are to have used some nodes."""
        return math.prod(count + 1 for count in self.counts)

    def starts(self) -> Iterator[tuple[int, int]]:
        """Yield every kind."""
        return ((unit, kind) for kind, unit in enumerate(self.units))

    def step(self, key: int, last: int, kind: int) -> int | None:
        """Use another node of a kind, while there are some."""
        used = key // self.units[kind] % (self.counts[kind] + 1)
        return key + self.units[kind] if used < self.counts[kind] else None

    def back(self, key: int, kind: int) -> int:
        """Give the node back."""
        return key - self.units[kind]

    def left(self, key: int, last: int) -> tuple[int, ...]:
        """Return the nodes that are not used."""
        pairs = zip(self.counts, self.units, strict=True)
        return tuple(count - key // unit % (count + 1) for count, unit in pairs)


class FixedRoute:
    """The order of the kinds, each a single node; some may be left out.

    Args:
        count: How many nodes there are.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def starts(self) -> Iterator[tuple[int, int]]:
        """Yield every node."""
        return ((0, kind) for kind in range(self.count))

    def step(self, key: int, last: int, kind: int) -> int | None:
        """Go on to a later node."""
        return 0 if kind > last else None

    def back(self, key: int, kind: int) -> int:
        """Nothing but the last node is known."""
        return 0

    def left(self, key: int, last: int) -> tuple[int, ...]:
        """Return the later nodes."""
        return (0,) * (last + 1) + (1,) * (self.count - last - 1)


@dataclass(frozen=True, slots=True)
class Found:
    """A placement.

    Args:
        ring_s: Seconds of a frame once around.
        beat_s: Seconds at the slowest stage or link.
        parts: (kind, first layer, layer after the last) of each stage.
    """

    ring_s: float
    beat_s: float
    parts: list[Part]

    def cycle_s(self, beats: float) -> float:
        """Return the seconds between two tokens of a sequence."""
        return max(self.ring_s, beats * self.beat_s)


class Rests:
    """What the layers that are not placed yet must take at least.

    They are poured over the nodes that are left, the fastest first, each up to what
    it can hold in memory and beat: no placement of whole layers takes less.

    Args:
        table: The costs.
        windows: For each kind and end the least beginning of a stage.
    """

    def __init__(self, table: Table, windows: list[list[int]]) -> None:
        self.table = table
        self.known: dict[tuple[int, ...], Values] = {}
        costs, ends = table.costs, range(1, table.size + 1)
        self.caps = [max(costs[e] - costs[min(w[e], e)] for e in ends) for w in windows]
        speeds = table.layer_s
        self.order = sorted(range(len(speeds)), key=lambda kind: speeds[kind])

    def of(self, left: tuple[int, ...]) -> Values:
        """Return the least seconds from each layer on, head included."""
        if left not in self.known:
            self.known[left] = self._poured(left)
        return self.known[left]

    def _poured(self, left: tuple[int, ...]) -> Values:
        """Return the seconds, from the last layer to the first."""
        table = self.table
        heads = [head for head, n in zip(table.head_s, left, strict=True) if n]
        filled, time, marks = 0.0, min(heads, default=INF), list[tuple[float, float]]()
        for kind in self.order:
            if left[kind] and self.caps[kind] > 0:
                marks.append((filled, table.layer_s[kind]))
                filled += left[kind] * self.caps[kind]
        values, at, full = [0.0], 0.0, filled * (1 + 1e-9)
        for cost in reversed(table.costs[:-1]):
            work = table.costs[-1] - cost
            if work > full:
                return [INF] * (table.size + 1 - len(values)) + values[::-1]
            slopes = (slope for mark, slope in reversed(marks) if mark <= at)
            time += next(slopes) * (work - at)
            values.append(time * (1 - 1e-12))
            at = work
        return values[::-1]


class Rings:
    """The least ring times of a table along a route.

    Args:
        table: The costs.
        route: Which node may follow which.
        least: The least number of layers in a stage.
    """

    def __init__(self, table: Table, route: Route, least: int = 1) -> None:
        self.table = table
        self.route = route
        self.least = least
        self.rests: Rests | None = None

    def shortest(self, beat: float, below: float = INF) -> Found | None:
        """Return the least ring time with no stage or link slower than a beat.

        Args:
            beat: The limit for stages and links, seconds.
            below: Only what is shorter is of interest, seconds.
        """
        found = None
        for firsts in self._groups():
            limit = found.ring_s if found else below
            found = self._search(firsts, beat, limit) or found
        return found

    def reach(self) -> int:
        """Return how many layers, counted from the first, can be placed at all."""
        every = list(range(len(self.table.kinds)))
        windows = [self.table.windows(kind, INF) for kind in every]
        self.rests = None
        level, best = self._first_level(every, INF, INF), 0
        while level:
            ends = (v for kinds in level.values() for v in kinds.values())
            reached = (i for v in ends for i, time in enumerate(v) if time < INF)
            best = max(best, *reached)
            level = self._next_level(level, windows, INF, INF)
        return best

    def _groups(self) -> list[list[int]]:
        """Return first kinds that close the ring at the same cost, together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        closing = self.table.closing
        for kind in range(len(closing)):
            costs = {line[kind] for line in closing if line[kind]}
            key = tuple(costs) if len(costs) < 2 else (kind,)
            groups.setdefault(key, []).append(kind)
        return list(groups.values())

    def _search(self, firsts: list[int], beat: float, below: float) -> Found | None:
        """Return the least ring time that begins with one of some kinds."""
        windows = [self.table.windows(k, beat) for k in range(len(self.table.kinds))]
        self.rests = Rests(self.table, windows)
        level = self._first_level(firsts, beat, below)
        levels, best = [], (below, -1, -1, -1)
        while level:
            levels.append(level)
            for key, ends in level.items():
                for last, values in ends.items():
                    time = values[-1] + self._close(
                        firsts, last, len(levels) == 1, beat
                    )
                    best = min(best, (time, len(levels) - 1, key, last))
            level = self._next_level(level, windows, beat, best[0])
        if best[1] < 0:
            return None
        parts = self._trace(levels, windows, beat, *best[1:])
        return Found(best[0], self._beat(parts), parts)

    def _close(self, firsts: list[int], last: int, alone: bool, beat: float) -> float:
        """Return what the way back from the last stage takes."""
        ways = (self.table.back(last, first, alone) for first in firsts)
        hops = next((way for way in ways if way), ())
        if any(hop.busy_s > beat for hop in hops):
            return INF
        return sum(hop.seconds for hop in hops)

    def _first_level(self, firsts: list[int], beat: float, below: float) -> Level:
        """Return the values of a single stage."""
        table, level = self.table, Level()
        for key, kind in self.route.starts():
            if kind in firsts:
                values = [INF] * (table.size + 1)
                for end in range(self.least, table.size + 1):
                    if table.fits(kind, 0, end, beat):
                        values[end] = table.layer_s[kind] * table.costs[end]
                values[-1] += table.head_s[kind]
                self._keep(level, key, kind, values, below)
        return level

    def _keep(
        self, level: Level, key: int, kind: int, values: Values, below: float
    ) -> None:
        """Put values into a level, without those that cannot become the best."""
        kept = values
        if self.rests:
            rests = self.rests.of(self.route.left(key, kind))
            pairs = zip(values, rests, strict=True)
            kept = [value if value + rest < below else INF for value, rest in pairs]
        if min(kept) < INF:
            level.setdefault(key, {})[kind] = kept

    def _next_level(
        self, level: Level, windows: list[list[int]], beat: float, below: float
    ) -> Level:
        """Return the values with one stage more."""
        following: Level = {}
        for key, ends in level.items():
            for kind, window in enumerate(windows):
                came, after = self._arrivals(key, ends, kind, beat)
                if after is not None:
                    values = self._extend(came, kind, window)
                    self._keep(following, after, kind, values, below)
        return following

    def _arrivals(
        self, key: int, ends: dict[int, Values], kind: int, beat: float
    ) -> tuple[Values, int | None]:
        """Return the least values with which a stage of a kind can begin."""
        columns, after = [], None
        for last, values in ends.items():
            hop, step = self.table.hops[last][kind], self.route.step(key, last, kind)
            if step is not None and hop and hop.busy_s <= beat:
                after, seconds = step, hop.seconds
                columns.append([value + seconds for value in values])
        if len(columns) < 2:
            return (columns[0] if columns else []), after
        return [min(column) for column in zip(*columns, strict=True)], after

    def _extend(self, came: Values, kind: int, window: list[int]) -> Values:
        """Return the values at each end of a stage that begins anywhere allowed."""
        table, least = self.table, self.least
        layer_s, costs = table.layer_s[kind], table.costs
        values, queue = [INF] * len(costs), deque[tuple[float, int]]()
        for end in range(least + 1, len(costs)):
            begin = end - least
            value = came[begin] - layer_s * costs[begin]
            if value < INF:
                while queue and queue[-1][0] >= value:
                    queue.pop()
                queue.append((value, begin))
            while queue and queue[0][1] < window[end]:
                queue.popleft()
            if queue:
                values[end] = queue[0][0] + layer_s * costs[end]
        values[-1] += table.head_s[kind]
        return values

    def _trace(
        self,
        levels: list[Level],
        windows: list[list[int]],
        beat: float,
        depth: int,
        key: int,
        kind: int,
    ) -> list[Part]:
        """Return the stages behind a value, by looking for the best predecessors."""
        table, parts, end = self.table, list[Part](), self.table.size
        while depth:
            before = self.route.back(key, kind)
            choices = [
                (
                    value + hop.seconds - table.layer_s[kind] * table.costs[begin],
                    begin,
                    i,
                )
                for i, values in levels[depth - 1].get(before, {}).items()
                if self.route.step(before, i, kind) is not None
                if (hop := table.hops[i][kind]) and hop.busy_s <= beat
                for begin, value in enumerate(values[: end - self.least + 1])
                if begin >= windows[kind][end]
            ]
            _, begin, previous = min(choices)
            parts.append((kind, begin, end))
            depth, key, kind, end = depth - 1, before, previous, begin
        return [*parts, (kind, 0, end)][::-1]

    def _beat(self, parts: list[Part]) -> float:
        """Return the slowest stage or link of a placement."""
        table = self.table
        times = [
            table.layer_s[k] * (table.costs[e] - table.costs[f]) for k, f, e in parts
        ]
        times[-1] += table.head_s[parts[-1][0]]
        kinds = [kind for kind, _, _ in parts]
        hops = [table.hops[a][b] for a, b in zip(kinds, kinds[1:], strict=False)]
        hops += table.back(kinds[-1], kinds[0], len(kinds) == 1)
        return max(*times, *(hop.busy_s for hop in hops if hop), 0.0)


def least_latency(rings: Rings) -> Found | None:
    """Return the placement with the least ring time."""
    return rings.shortest(INF)


def least_beat(rings: Rings) -> Found | None:
    """Return the placement whose slowest stage or link is fastest."""
    table = rings.table
    values = table.beat_values(table.least_beat(), 1e300)
    low, high, best = 0, len(values), None
    while low < high:
        middle = (low + high) // 2
        found = rings.shortest(values[middle])
        best = found or best
        low, high = (low, middle) if found else (middle + 1, high)
    return best


def least_cycle(rings: Rings, below: float = INF) -> Found | None:
    """Return the placement with the least `max(ring, beats * beat)`.

    Args:
        rings: The ring times.
        below: Only what is shorter is of interest, seconds.
    """
    beats = rings.table.beats
    table = rings.table
    values = table.beat_values(table.least_beat(), min(below / beats, 1e300))
    low, high, best = 0, len(values) - 1, None
    while low <= high:
        middle = (low + high) // 2
        found = rings.shortest(values[middle], below)
        if found and found.cycle_s(beats) < below:
            best, below = found, found.cycle_s(beats)
        if found and found.ring_s <= beats * values[middle]:
            high = middle - 1
        else:
            low = middle + 1
    return best
