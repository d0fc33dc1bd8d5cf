"""Machines, links and models as numbers, in files too."""

import json
from pathlib import Path
from typing import Any

import pytest

from butterfly.errors import ConfigurationError
from butterfly.partitioning import (
    Cluster,
    Layer,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Workload,
)
from butterfly.partitioning.codec import find_codec

TIME = LayerTime(0.001, 1e-5, 2e-5)
LAN, WAN = Link(0.001, 1e8), Link(0.04, 1e6)
CLUSTER = Cluster(
    (Node("desk", 8e9, TIME), Node("phone", 4e9, TIME, LayerTime(0.01, 1e-4, 0.0))),
    {("desk", "phone"): LAN, ("phone", "desk"): WAN},
    head="desk",
)
MODEL = ModelShape("m", 64, (Layer(10, 1), Layer(20, 2, 1.5)), 5, 7, 2.0, tied=True)


def test_a_cluster_is_the_same_after_a_file(tmp_path: Path) -> None:
    """What `butterfly probe` writes, `plan` reads."""
    CLUSTER.write(tmp_path / "cluster.json")
    assert Cluster.read(tmp_path / "cluster.json") == CLUSTER
    lone = Cluster((Node("desk", 8e9, TIME),), default_link=LAN)
    assert Cluster.from_json(json.loads(json.dumps(lone.to_json()))) == lone


def test_a_model_is_the_same_after_a_file(tmp_path: Path) -> None:
    """Layers that differ stay different."""
    MODEL.write(tmp_path / "model.json")
    assert ModelShape.read(tmp_path / "model.json") == MODEL


def test_links_have_two_directions() -> None:
    """One is enough where both are alike; a node reaches itself at once."""
    assert CLUSTER.link("desk", "phone") == LAN
    assert CLUSTER.link("phone", "desk") == WAN
    assert CLUSTER.link("desk", "desk").round_trip_s == 0
    one = Cluster(CLUSTER.nodes, {("desk", "phone"): LAN})
    assert one.link("phone", "desk") == LAN


def test_a_tied_embedding_weighs_once_on_one_stage() -> None:
    """And on both ends of two."""
    assert MODEL.ends_bytes(0, 1) == 7
    assert MODEL.ends_bytes(0, 0) == 5
    assert MODEL.ends_bytes(1, 1) == 7
    assert MODEL.weight_bytes == 35
    assert MODEL.prefix_costs() == [0, 1, 2.5]
    assert MODEL.prefix_bytes(10) == [0, 20, 60]


def spoiled(**changes: Any) -> dict[str, Any]:
    """Return the JSON of the cluster with changes."""
    return {**CLUSTER.to_json(), **changes}


NODE = {"name": "a", "memory_bytes": 1, "layer": {"fixed_s": 1, "row_s": 0}}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], r"the cluster is \[\]: write an object"),
        ({}, "the cluster has no 'nodes': add it"),
        (
            spoiled(sites=[]),
            "the cluster has 'sites', which is not one of nodes, links",
        ),
        (spoiled(nodes=[]), "the cluster has no node: add one"),
        (spoiled(nodes=[NODE]), r"nodes\[0\].layer has no 'token_s'"),
        (spoiled(nodes=[{"name": "a"}]), r"nodes\[0\] has no 'memory_bytes'"),
        (spoiled(links=[{"from": "desk"}]), r"links\[0\] has no 'to'"),
        (spoiled(links=[]), "no link between 'desk' and 'phone': add it"),
        (spoiled(head="attic", links=[]), "no link between"),
        (spoiled(default_link={"round_trip_s": "x", "bytes_per_s": 1}), "default_link"),
        (spoiled(nodes=CLUSTER.to_json()["nodes"] * 2), "two nodes are called 'desk'"),
    ],
)
def test_a_damaged_cluster_is_told_where(data: Any, match: str) -> None:
    """The place and the fix are in the message."""
    with pytest.raises(ConfigurationError, match=match):
        Cluster.from_json(data)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """One that is not there, one that is no JSON, one that cannot be written."""
    with pytest.raises(ConfigurationError, match="cannot read .*nowhere.json"):
        Cluster.read(tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ConfigurationError, match="cannot read .*text.json"):
        ModelShape.read(tmp_path / "text.json")
    with pytest.raises(ConfigurationError, match="cannot write"):
        MODEL.write(tmp_path / "no folder" / "model.json")


def test_an_unknown_name_lists_the_known() -> None:
    """Of nodes and codecs."""
    with pytest.raises(ConfigurationError, match="no node 'x': there are desk, phone"):
        CLUSTER.node("x")
    with pytest.raises(ConfigurationError, match="no codec 'zip': there are f32, f16"):
        find_codec("zip")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Link(-1, 1), "round_trip_s is -1, it must be 0 or more"),
        (lambda: Link(0, 0), "bytes_per_s is 0, it must be above 0"),
        (lambda: Node("a", 1, LayerTime(0, 0, 1)), "node 'a': layer_time is 0"),
        (lambda: LayerTime(0, -1, 1), "row_s is -1"),
        (lambda: Layer(1, 1, 0), "cost is 0"),
        (lambda: ModelShape("m", 8, ()), "model 'm' has no layers"),
        (lambda: Workload(0), "requests is 0"),
        (lambda: Workload(spread=1.0), "spread is 1.0, it must be from 0 to below 1"),
    ],
)
def test_impossible_numbers_are_refused(make: Any, match: str) -> None:
    """The name and the limit are in the message."""
    with pytest.raises(ConfigurationError, match=match):
        make()


def test_a_lane_holds_the_longest_request() -> None:
    """Unless the workload says how much."""
    assert Workload(prompt_tokens=100, output_tokens=60, spread=0.5).lane == 240
    assert Workload(lane_tokens=77).lane == 77
