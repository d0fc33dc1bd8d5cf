"""`HeadOptions`: what a head can be told."""

from dataclasses import dataclass


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
        chunk: The most rows of prompts in a frame.
        frames: How many frames may be on their way, 0 for one a stage.
        codec: How hidden states travel.
        dtype: The format of weights.
        reuse: Whether the beginning of a prompt that is there already is used again.
        patience: The least seconds after which a frame that is out counts as stuck.
        wait: Seconds that open requests wait for a node when there is none.
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
    chunk: int = 256
    frames: int = 0
    codec: str = "f32"
    dtype: str = "float32"
    reuse: bool = True
    patience: float = 10.0
    wait: float = 60.0
    rebalance: float = 60.0
