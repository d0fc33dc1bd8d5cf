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
