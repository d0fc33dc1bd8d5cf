"""Place a model on machines: numbers in, a plan out; no torch.

Example:
    >>> from butterfly.partitioning import Cluster, LayerTime, Link, ModelShape, Node
    >>> from butterfly.partitioning import partition
    >>> desk = Node("desk", 12e9, LayerTime(fixed_s=0.001, row_s=2e-5, token_s=5e-5))
    >>> laptop = Node("laptop", 8e9, LayerTime(fixed_s=0.003, row_s=2e-4, token_s=4e-4))
    >>> lan = Link(round_trip_s=0.0005, bytes_per_s=1.2e8)
    >>> cluster = Cluster((desk, laptop), default_link=lan)
    >>> model = ModelShape.uniform(
    ...     "8b", hidden=4096, layers=32, weight_bytes=4.36e8, kv_token_bytes=4096,
    ...     embedding_bytes=1.05e9, head_bytes=1.05e9, head_cost=2.4,
    ... )
    >>> plan = partition(cluster, model)
    >>> [(stage.node, stage.size) for stage in plan.chains[0].stages]
    [('laptop', 9), ('desk', 23)]

`Problem` says what a chain costs by formula, `simulate` what it serves. All of it is
plain Python, deterministic, and prints what it decides: ``str(plan)``.
"""

from butterfly.partitioning.baselines import RULES
from butterfly.partitioning.bound import throughput_bound
from butterfly.partitioning.chain import Chain, Stage
from butterfly.partitioning.cluster import Cluster, LayerTime, Link, Node
from butterfly.partitioning.codec import CODECS, Codec
from butterfly.partitioning.model import Layer, ModelShape
from butterfly.partitioning.plan import Plan
from butterfly.partitioning.planner import described, partition
from butterfly.partitioning.problem import Problem
from butterfly.partitioning.simulator import Outcome, simulate
from butterfly.partitioning.solver import busiest_chain, chain_of, fastest_chain
from butterfly.partitioning.workload import Workload

__all__ = [
    "CODECS",
    "Chain",
    "Cluster",
    "Codec",
    "Layer",
    "LayerTime",
    "Link",
    "ModelShape",
    "Node",
    "Outcome",
    "Plan",
    "Problem",
    "RULES",
    "Stage",
    "Workload",
    "busiest_chain",
    "chain_of",
    "described",
    "fastest_chain",
    "partition",
    "simulate",
    "throughput_bound",
]
