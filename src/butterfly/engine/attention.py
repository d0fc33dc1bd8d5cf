"""`Rows` and `attend`: attention of a frame's rows over the lanes of their sequences.

All rows of a frame go through a layer together, as `[1, rows, hidden]`; only attention
has to know whose they are. Rows that continue sequences in neighbouring lanes by one
token each attend in one call: the queries of the heads that share a key-value head
stand where query positions usually stand, so nothing is repeated, and the keys are a
view of the lanes. A part of a prompt attends by itself.

transformers calls `attend` by its name in `ALL_ATTENTION_FUNCTIONS`, from the attention
module of any family that speaks that interface.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from butterfly.communication.frames import Segment
from butterfly.engine.lanes import Lanes

NAME = "butterfly"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that attend together.

    Args:
        rows: The first row, and the one after the last.
        lanes: The first lane, and the one after the last.
        starts: The position of the first row in each lane.
        length: How many rows each lane has: 1, or the part of one prompt.
    """

    rows: tuple[int, int]
    lanes: tuple[int, int]
    starts: tuple[int, ...]
    length: int

    @property
    def reach(self) -> int:
        """How many positions of the lanes are looked at."""
        return max(self.starts) + self.length


@dataclass(slots=True)
class Rows:
    """Where the rows of a frame belong.

    Args:
        cache: The lanes.
        groups: The rows that attend together.
        lane: The lane of each row, `[rows]`.
        position: The position of each row, `[rows]`.
        masks: The masks that were made for this frame, by group and window.
    """

    cache: Lanes
    groups: Sequence[Group]
    lane: torch.Tensor
    position: torch.Tensor
    masks: dict[tuple[int, int | None], torch.Tensor | None] = field(
        default_factory=dict
    )

    @classmethod
    def of(cls, segments: Sequence[Segment], cache: Lanes) -> "Rows":
        """Return where the rows of some segments belong.

        Args:
            segments: Whose rows they are, in order.
            cache: The lanes.
        """
        lanes = [s.lane for s in segments for _ in range(s.length)]
        places = [s.start + k for s in segments for k in range(s.length)]
        device = cache.keys[0].device if cache.keys else torch.device("cpu")
        return cls(
            cache,
            grouped(segments),
            torch.tensor(lanes, device=device),
            torch.tensor(places, device=device),
        )

    def mask(
        self, number: int, window: int | None, shared: int, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Return what is added to the scores of a group; None for nothing.

        It is made once for all layers, in the form that they add.

        Args:
            number: The place of the group.
            window: How many positions back are seen, None for all.
            shared: How many heads share a key-value head.
            dtype: Of the scores.

        Returns:
            0 or -inf, `[lanes, 1, shared x length, reach]`; of one row
            `[lanes, 1, 1, reach]`.
        """
        key = number, window
        if key not in self.masks:
            seen = _seen(self.groups[number], window)
            if seen is not None:
                seen = seen.repeat(1, 1, shared if seen.shape[2] > 1 else 1, 1)
                hidden = torch.zeros(seen.shape, dtype=dtype)
                seen = hidden.masked_fill_(~seen, -torch.inf).to(self.lane.device)
            self.masks[key] = seen
        return self.masks[key]


def grouped(segments: Sequence[Segment]) -> list[Group]:
    """Return the groups of a frame: runs of neighbouring lanes with one row each.

    Args:
        segments: Whose rows they are, in order.
    """
    groups: list[Group] = []
    row = 0
    for s in segments:
        last = groups[-1] if groups else None
        if last and s.length == last.length == 1 and last.lanes[1] == s.lane:
            groups[-1] = Group(
                (last.rows[0], row + 1),
                (last.lanes[0], s.lane + 1),
                (*last.starts, s.start),
                1,
            )
        else:
            lanes = s.lane, s.lane + 1
            groups.append(Group((row, row + s.length), lanes, (s.start,), s.length))
        row += s.length
    return groups


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    rows: Rows,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention of a frame's rows, `[1, rows, heads, head size]`.

    Args:
        module: The attention module of the layer; its `layer_idx` says which.
        query: `[1, heads, rows, head size]`.
        key: `[1, key-value heads, rows, head size]`.
        value: As `key`.
        attention_mask: Not used: `rows` knows.
        rows: Where the rows belong.
        scaling: What products are multiplied with.
        sliding_window: How many positions back are seen, None for all.
        softcap: What scores are softly limited to, None for no limit.
    """
    keys = rows.cache.keys[module.layer_idx]
    values = rows.cache.values[module.layer_idx]
    keys[rows.lane, :, rows.position] = key[0].transpose(0, 1)
    values[rows.lane, :, rows.position] = value[0].transpose(0, 1)
    out = torch.empty_like(query[0].transpose(0, 1))
    shared = query.shape[1] // keys.shape[1]
    for number, group in enumerate(rows.groups):
        (first, last), (low, high) = group.rows, group.lanes
        asked = query[0, :, first:last].unflatten(0, (keys.shape[1], shared))
        k, v = keys[low:high, :, : group.reach], values[low:high, :, : group.reach]
        mask = rows.mask(number, sliding_window, shared, query.dtype)
        # [kv heads, shared, rows, size] -> [lanes, kv heads, shared x length, size]
        lanes = high - low
        asked = asked.unflatten(2, (lanes, group.length)).movedim(2, 0).flatten(2, 3)
        found = _weighed(asked, k, v, mask, scaling, softcap)
        found = found.unflatten(2, (shared, group.length)).permute(0, 3, 1, 2, 4)
        out[first:last] = found.flatten(0, 1).flatten(1, 2)
    return out.unsqueeze(0), None


def _weighed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """Return softmax(query key) value, with scores softly limited if asked for."""
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, mask, scale=scaling)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value


def _seen(group: Group, window: int | None) -> torch.Tensor | None:
    """Return which positions each row sees, None if all see all."""
    reach = group.reach
    if group.length == 1 and len(set(group.starts)) == 1:
        if window is None or reach <= window:
            return None
    starts = torch.tensor(group.starts).view(-1, 1, 1, 1)
    at = starts + torch.arange(group.length).view(1, 1, -1, 1)
    seen = torch.arange(reach).view(1, 1, 1, -1)
    mask = seen <= at
    return mask if window is None else mask & (seen > at - window)
