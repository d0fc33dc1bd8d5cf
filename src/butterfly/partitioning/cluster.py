"""Machines and links as numbers; ``butterfly probe`` measures a machine.

Time is linear: a frame with some decoding rows and some prompt tokens costs a layer
``fixed_s + row_s * rows + token_s * tokens``. The fixed part is reading the weights,
so it does not shrink with the batch; that is why small micro-batches are expensive.
What it does not know: attention over long contexts (measure at the length you serve).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from butterfly.errors import ConfigurationError
from butterfly.partitioning.form import (
    build,
    check,
    not_negative,
    positive,
    read_json,
    write_json,
)
from butterfly.partitioning.loss import Loss, losses_in


@dataclass(frozen=True, slots=True)
class LayerTime:
    """What one layer costs on one node.

    Args:
        fixed_s: Seconds a frame takes, however small.
        row_s: Seconds for each decoding row.
        token_s: Seconds for each prompt token.
    """

    fixed_s: float
    row_s: float
    token_s: float

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        not_negative("a layer time", fixed_s=self.fixed_s)
        not_negative("a layer time", row_s=self.row_s, token_s=self.token_s)

    def seconds(self, rows: float, tokens: float = 0.0) -> float:
        """Return the seconds of one frame."""
        return self.fixed_s + self.row_s * rows + self.token_s * tokens


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that offers to hold layers.

    Args:
        name: Its name, unique in the cluster.
        memory_bytes: What weights and KV cache may take.
        layer: What a layer of cost 1 takes.
        head: What the head takes; None: `ModelShape.head_cost` layers.
        losses: What codecs change, as it was measured there.
    """

    name: str
    memory_bytes: float
    layer: LayerTime
    head: LayerTime | None = None
    losses: tuple[Loss, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a node without memory, or one that takes no time."""
        where = f"node {self.name!r}"
        not_negative(where, memory_bytes=self.memory_bytes)
        positive(where, layer_time=self.layer.fixed_s + self.layer.row_s)


@dataclass(frozen=True, slots=True)
class Link:
    """A way between two machines.

    Args:
        round_trip_s: Seconds there and back of a small message.
        bytes_per_s: Bandwidth.
    """

    round_trip_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        """Refuse what is no link."""
        not_negative("a link", round_trip_s=self.round_trip_s)
        positive("a link", bytes_per_s=self.bytes_per_s)


LOCAL = Link(0.0, math.inf)


@dataclass(frozen=True)
class Cluster:
    """Nodes and the links between them.

    Args:
        nodes: The nodes; names differ.
        links: By pair of names. One direction is enough where both are alike.
        default_link: The link of pairs that are not in `links`.
        head: The machine of the head process; None: the node of the first stage. It
            may be a node, or a machine of its own that only the links know.
    """

    nodes: tuple[Node, ...]
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    default_link: Link | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that occur twice and links that are missing."""
        names = [node.name for node in self.nodes]
        if not names:
            raise ConfigurationError("the cluster has no node: add one")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ConfigurationError(f"two nodes are called {twice[0]!r}: rename one")
        hosts = names if self.head in (None, *names) else [*names, str(self.head)]
        for i, one in enumerate(hosts):
            for other in hosts[i + 1 :]:
                self.link(one, other)

    def link(self, source: str, target: str) -> Link:
        """Return the link from one machine to another.

        Raises:
            ConfigurationError: Nobody measured it.
        """
        if source == target:
            return LOCAL
        found = self.links.get((source, target)) or self.links.get((target, source))
        if found is None and self.default_link is None:
            raise ConfigurationError(
                f"no link between {source!r} and {target!r}: add it to the links, or "
                "give a default_link (`butterfly plan --link MS:MBIT`)"
            )
        return found or self.default_link or LOCAL

    def node(self, name: str) -> Node:
        """Return the node of a name.

        Raises:
            ConfigurationError: There is none; the message lists the names.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise ConfigurationError(f"no node {name!r}: there are {known}")

    def part(self, names: Iterable[str]) -> "Cluster":
        """Return the cluster of some of the nodes."""
        kept = tuple(self.node(name) for name in names)
        return Cluster(kept, self.links, self.default_link, self.head)

    def to_json(self) -> dict[str, Any]:
        """Return the cluster as JSON values."""
        default = self.default_link
        return {
            "nodes": [asdict(node) for node in self.nodes],
            "links": [
                {"from": a, "to": b, **asdict(link)}
                for (a, b), link in self.links.items()
            ],
            "default_link": None if default is None else asdict(default),
            "head": self.head,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Cluster":
        """Return the cluster that `to_json` told of.

        Raises:
            ConfigurationError: Something is missing, unknown or no number.
        """
        check(data, "the cluster", ["nodes"], cls.__dataclass_fields__)
        nodes = tuple(_node(n, f"nodes[{i}]") for i, n in enumerate(data["nodes"]))
        links = {}
        for i, entry in enumerate(data.get("links", ())):
            check(entry, f"links[{i}]", ["from", "to"], ("from", "to", *LINK_FIELDS))
            rest = {k: v for k, v in entry.items() if k in LINK_FIELDS}
            links[entry["from"], entry["to"]] = build(Link, rest, f"links[{i}]")
        default = data.get("default_link")
        link = None if default is None else build(Link, default, "default_link")
        return cls(nodes, links, link, data.get("head"))

    @classmethod
    def read(cls, path: str | Path) -> "Cluster":
        """Return the cluster that a JSON file holds."""
        return cls.from_json(read_json(path))

    @classmethod
    def read_all(
        cls, paths: Iterable[str | Path], default_link: Link | None = None
    ) -> "Cluster":
        """Return the cluster of several files, as each machine wrote one.

        Args:
            paths: The files.
            default_link: The link of pairs that no file tells of.

        Raises:
            ConfigurationError: A file cannot be used, or they contradict each other.
        """
        whole: dict[str, Any] = {"nodes": [], "links": []}
        if default_link is not None:
            whole["default_link"] = asdict(default_link)
        for path in paths:
            data = read_json(path)
            check(data, str(path), ["nodes"], cls.__dataclass_fields__)
            for key, told in data.items():
                if key in ("nodes", "links"):
                    whole[key] += told
                elif told is not None and whole.setdefault(key, told) != told:
                    raise ConfigurationError(
                        f"{path} has another {key!r} than what was told before: "
                        "keep one"
                    )
        return cls.from_json(whole)

    def write(self, path: str | Path) -> None:
        """Write a JSON file that `read` understands."""
        write_json(path, self.to_json())


LINK_FIELDS = tuple(Link.__dataclass_fields__)


def _node(data: Any, where: str) -> Node:
    """Return the node of a JSON object."""
    check(data, where, ["name", "memory_bytes", "layer"], Node.__dataclass_fields__)
    head = data.get("head")
    layer = build(LayerTime, data["layer"], f"{where}.layer")
    time = None if head is None else build(LayerTime, head, f"{where}.head")
    made = {"layer": layer, "head": time, "losses": losses_in(data, f"{where}.")}
    return build(Node, {**data, **made}, where)
