"""Machines to plan for: homes of public devices, and two datacentres.

A device is its memory, its memory bandwidth and its arithmetic, from public data
sheets. A layer then takes the reading of its weights at 60 % of the bandwidth, and for
each token two operations a parameter at 35 % of the arithmetic (decoding) or 45 %
(prompts). These are guesses of the right size, not measurements; all planners see the
same ones.
"""

import random
from dataclasses import dataclass

from butterfly.partitioning import Cluster, LayerTime, Link, ModelShape, Node


@dataclass(frozen=True)
class Device:
    """A public type of machine.

    Args:
        name: What it is called.
        gigabytes: Memory that a model may take.
        bandwidth: Of the memory, GB/s.
        teraflops: Dense 16-bit arithmetic.
    """

    name: str
    gigabytes: float
    bandwidth: float
    teraflops: float


DEVICES = (
    Device("rtx4090", 22, 1008, 165),
    Device("rtx3090", 22, 936, 71),
    Device("rtx4070", 10.5, 504, 58),
    Device("rtx3060", 10.5, 360, 25),
    Device("m3max", 40, 400, 28),
    Device("m2pro", 22, 200, 13),
    Device("m4mini", 11, 120, 8.5),
    Device("m1air", 5.5, 68, 5.2),
    Device("orin-nano", 6.5, 68, 5),
    Device("steamdeck", 11, 88, 3.2),
    Device("desktop-cpu", 26, 70, 1.5),
    Device("laptop-cpu", 12, 50, 0.8),
    Device("pi5", 7, 15, 0.06),
)


@dataclass(frozen=True)
class Weights:
    """A model with the width of its weights.

    Args:
        shape: As the planner sees it.
        parameters: Of one layer.
    """

    shape: ModelShape
    parameters: float


def weights(
    name: str,
    layers: int,
    hidden: int,
    kv: int,
    billions: float,
    vocabulary: int,
    bits: float,
) -> Weights:
    """Return a model by its public figures; `kv`: 16-bit values a token and layer."""
    table = vocabulary * hidden
    each = (billions * 1e9 - 2 * table) / layers
    shape = ModelShape.uniform(
        name,
        hidden=hidden,
        layers=layers,
        weight_bytes=each * bits / 8,
        kv_token_bytes=2 * kv,
        embedding_bytes=table * 2,
        head_bytes=table * 2,
        head_cost=table * 16 / (each * bits),
    )
    return Weights(shape, each)


MODELS = (
    weights("8b-16bit", 32, 4096, 2048, 8.03, 128_256, 16),
    weights("14b-8bit", 40, 5120, 2048, 14.7, 152_064, 8.5),
    weights("32b-4bit", 64, 5120, 2048, 32.8, 152_064, 4.5),
    weights("70b-4bit", 80, 8192, 2048, 70.6, 128_256, 4.5),
)

NETS = {
    "LAN": ((0.0003, 0.001), (100e6, 120e6)),
    "Wi-Fi": ((0.003, 0.01), (10e6, 50e6)),
    "WAN": ((0.015, 0.06), (2e6, 12e6)),
}


def layer_time(device: Device, model: Weights) -> LayerTime:
    """Return what a layer takes on a device."""
    read = model.shape.layers[0].weight_bytes / (device.bandwidth * 1e9 * 0.6)
    compute = 2 * model.parameters / (device.teraflops * 1e12)
    return LayerTime(read, compute / 0.35, compute / 0.45)


def home(seed: int) -> tuple[Cluster, ModelShape, str]:
    """Return a random home, a model for it and the slowest net in it.

    Three to seven devices; the model is drawn from those whose weights fit into all
    memory with a twentieth to spare. Each device is on the LAN or on Wi-Fi, and in a
    third of the homes some are in another home over a WAN.
    """
    dice = random.Random(seed)
    while True:
        devices = [dice.choice(DEVICES) for _ in range(dice.randint(3, 7))]
        room = sum(d.gigabytes for d in devices) * 1e9
        fitting = [m for m in MODELS if m.shape.weight_bytes * 1.05 <= room]
        larger = [
            m
            for m in fitting
            if m.shape.weight_bytes > 1e9 * max(d.gigabytes for d in devices)
        ]
        if fitting:
            break
    model = dice.choice(larger or fitting)
    names = [f"{d.name}-{i}" for i, d in enumerate(devices)]
    nets = [dice.choice(("LAN", "Wi-Fi")) for _ in names]
    away = [False] * len(names)
    if dice.random() < 1 / 3:
        away = [dice.random() < 0.4 for _ in names]
    links, worst = {}, "LAN"
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            net = "WAN" if away[i] != away[j] else max(nets[i], nets[j])
            worst = max(worst, net, key=list(NETS).index)
            (low, high), (slow, fast) = NETS[net]
            links[one, names[j]] = Link(
                dice.uniform(low, high), dice.uniform(slow, fast)
            )
    nodes = tuple(
        Node(name, device.gigabytes * 1e9, layer_time(device, model))
        for name, device in zip(names, devices, strict=True)
    )
    return Cluster(nodes, links), model.shape, worst


LLAMA_70B = ModelShape.uniform(
    "llama2-70b-16bit",
    hidden=8192,
    layers=80,
    weight_bytes=1.71e9,
    kv_token_bytes=4096,
    embedding_bytes=0.52e9,
    head_bytes=0.52e9,
    head_cost=0.3,
)

# Lines through the published per-layer profiles of the artifact of arXiv 2406.01566
# (llama2_70b: decode_bs2time, prompt_bs2time; milliseconds), and the memory that its
# tables leave to weights and KV cache. The types of several cards are scaled.
CARDS = {
    "a100": (34.0, LayerTime(1.3e-3, 12.2e-6, 6.8e-6)),
    "v100": (13.0, LayerTime(2.3e-3, 24e-6, 19e-6)),
    "l4": (19.3, LayerTime(6.9e-3, 37e-6, 34e-6)),
    "t4": (11.5, LayerTime(7.1e-3, 62e-6, 62e-6)),
    "2xl4": (38.6, LayerTime(3.6e-3, 20e-6, 18e-6)),
    "2xt4": (23.0, LayerTime(3.8e-3, 33e-6, 33e-6)),
    "4xt4": (46.0, LayerTime(2.1e-3, 18e-6, 18e-6)),
}


def datacentre(**counts: int) -> Cluster:
    """Return a cluster of some cards each, 10 Gbit/s and 1 ms between all."""
    nodes = []
    for kind, count in counts.items():
        name = kind.removeprefix("x")
        gigabytes, time = CARDS[name]
        nodes += [Node(f"{name}-{i}", gigabytes * 1e9, time) for i in range(count)]
    return Cluster(tuple(nodes), default_link=Link(0.001, 1.25e9))


def datacentres() -> dict[str, Cluster]:
    """Return the two clusters of that paper: 24 nodes of 3 types, 42 of 7."""
    return {
        "24 nodes of 3 types": datacentre(a100=4, l4=8, t4=12),
        "42 nodes of 7 types": datacentre(
            a100=4, v100=6, l4=8, t4=10, x2xl4=4, x2xt4=6, x4xt4=4
        ),
    }
