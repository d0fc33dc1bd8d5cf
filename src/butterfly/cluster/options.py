"""`HeadOptions`: what a head can be told."""

from dataclasses import dataclass

from butterfly.partitioning import Plan
from butterfly.partitioning.loss import Budget

SPLITS = ("balanced", "even", "measured")


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a head can be told.

    Args:
        model: What to serve, as for `Checkpoint.of`.
        stages: How many nodes to wait for.
        secret: The cluster's secret.
        address: The address of the interface that nodes connect to.
        control_port: The port for nodes, 0 for any.
        lanes: How many sequences there is room for at once.
        positions: How many positions each.
        rows: The most sequences that decode in a frame, 0 for what the plan says, else
            as many as deal them out over the frames.
        chunk: The most rows of prompts in a frame; 0 for what the plan says, else for
            256 over the frames, which is also the least where nobody decodes.
        frames: How many frames may be on their way, 0 for what the plan says, else for
            one a stage.
        codec: How hidden states travel; a plan says so for each link.
        budget: How much a lossy codec may change; more is refused.
        dtype: The format of weights.
        reuse: Whether the beginning of a prompt that is there already is used again.
        speculate: The most tokens that are guessed for a sequence which has a frame to
            itself, 0 for none.
        split: Who gets which layers: one of `SPLITS`; with a plan it is for those that
            are left when a node of it is gone.
        plan: What ``butterfly plan`` wrote.
        patience: The least seconds after which a frame that is out counts as stuck.
        wait: Seconds that open requests wait for a node when there is none.
        replicas: How many rings hold the model, each over nodes of its own; a plan's
            are as many as its chains.
        rebalance: The least seconds between two epochs of which the second gives a slow
            stage fewer layers; 0 for never.
    """

    model: str
    stages: int
    secret: str
    address: str = "127.0.0.1"
    control_port: int = 0
    lanes: int = 16
    positions: int = 1024
    rows: int = 0
    chunk: int = 0
    frames: int = 0
    codec: str = "f32"
    budget: Budget = Budget()
    dtype: str = "float32"
    reuse: bool = True
    speculate: int = 8
    split: str = "balanced"
    plan: Plan | None = None
    patience: float = 10.0
    wait: float = 60.0
    replicas: int = 1
    rebalance: float = 60.0
