"""The rules of others place layers as they are said to."""

import subprocess
import sys

import butterfly.partitioning
from butterfly.partitioning import (
    RULES,
    Cluster,
    LayerTime,
    Link,
    ModelShape,
    Node,
    Problem,
    Workload,
)
from butterfly.partitioning.baselines import shares

MODEL = ModelShape.uniform(
    "m", hidden=8, layers=10, weight_bytes=10, kv_token_bytes=0.0, head_cost=5.0
)


def sizes(rule: str, *nodes: tuple[float, float]) -> list[dict[str, int]]:
    """Return what each node gets, by (memory, time of a layer)."""
    made = tuple(
        Node(f"n{i}", room, LayerTime(time, 0, 0))
        for i, (room, time) in enumerate(nodes)
    )
    problem = Problem(Cluster(made, default_link=Link(0, 1)), MODEL, Workload())
    return [{s.node: s.size for s in stages} for stages in RULES[rule](problem)]


def test_even_counts_layers() -> None:
    """Whatever the nodes can do."""
    assert sizes("even", (1, 1), (99, 9), (5, 5)) == [{"n0": 4, "n1": 3, "n2": 3}]


def test_proportional_goes_by_memory() -> None:
    """The largest node comes first."""
    assert sizes("memory-proportional", (25, 1), (75, 9)) == [{"n1": 8, "n0": 2}]


def test_capacity_first_takes_the_largest_and_pours() -> None:
    """Two of three hold the model; the faster of them gets more, up to its cap."""
    nodes = [(120.0, 3.0), (110.0, 1.0), (30.0, 1.0)]
    assert sizes("capacity-first", *nodes) == [{"n0": 3, "n1": 7}]
    assert sizes("capacity-first", (160, 1), (155, 5)) == [{"n0": 10}, {"n1": 10}]
    assert sizes("capacity-first", (60, 1), (50, 5)) == [{"n0": 6, "n1": 4}]
    assert sizes("capacity-first", (60, 1), (20, 5)) == [{"n0": 5, "n1": 5}]


def test_shares_add_up() -> None:
    """The largest remainders are rounded up, caps are kept while there is room."""
    assert shares([1, 1, 1], 10) == [4, 3, 3]
    assert shares([0.6, 0.4], 10, [5, 9]) == [5, 5]
    assert sum(shares([1, 1], 10, [3, 3])) == 10


def test_the_face_is_a_sorted_list() -> None:
    """And every name in it has a docstring."""
    names = butterfly.partitioning.__all__
    assert list(names) == sorted(names)
    silent = [n for n in names if not getattr(butterfly.partitioning, n).__doc__]
    assert silent == []


def test_planning_loads_nothing_else() -> None:
    """A fresh import knows neither torch nor inf_engine."""
    code = (
        "import sys, butterfly.partitioning\n"
        "heavy = {'torch', 'numpy', 'inf_engine', 'transformers', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
