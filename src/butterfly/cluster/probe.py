"""What ``butterfly probe`` measures, and ``butterfly plan`` reads off a checkpoint."""

import socket
from dataclasses import replace

import torch

from butterfly.cluster.losses import losses_of
from butterfly.cluster.profile import node_of, shape_of
from butterfly.communication.codecs import CODECS
from butterfly.engine.weights import Checkpoint
from butterfly.partitioning import ModelShape, Node


def probed(
    model: str,
    *,
    name: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    threads: int = 1,
    memory: int = 0,
    stages: int = 4,
    tensor: int = 1,
) -> tuple[Node, ModelShape]:
    """Return this machine and a model as numbers.

    Args:
        model: The model, as for `Checkpoint.of`.
        name: What the node is called; empty for the name of the host.
        dtype: Of weights and hidden states.
        device: Where to compute.
        threads: How many compute.
        memory: Bytes that it offers; 0 for what is free.
        stages: Of how many stages the chain is for which codecs are measured.
        tensor: How many processes compute each layer together.

    Raises:
        ConfigurationError: If there is no such model.
    """
    torch.set_num_threads(threads)
    checkpoint, kind = Checkpoint.of(model), getattr(torch, dtype)
    own = name or socket.gethostname()
    where = {"dtype": kind, "device": device}
    node = node_of(own, checkpoint, **where, memory=memory, tensor=tensor)
    lossy, links = [codec.name for codec in CODECS[1:]], stages - 1
    losses = losses_of(checkpoint, lossy, links, **where)
    return replace(node, losses=losses), shape_of(checkpoint, dtype=kind)


def shaped(model: str, dtype: str = "float32") -> ModelShape:
    """Return a model as numbers.

    Args:
        model: The model, as for `Checkpoint.of`.
        dtype: Of weights and hidden states.

    Raises:
        ConfigurationError: If there is no such model.
    """
    return shape_of(Checkpoint.of(model), dtype=getattr(torch, dtype))
