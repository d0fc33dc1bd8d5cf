"""``butterfly probe``, ``plan`` and ``simulate``: numbers in, a plan out.

Planning is plain Python: torch is loaded only to measure, or to read a checkpoint.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from butterfly.partitioning import (
    RULES,
    Cluster,
    Link,
    ModelShape,
    Plan,
    Problem,
    Workload,
    described,
    partition,
)
from butterfly.partitioning.codec import F32, find_codec
from butterfly.partitioning.comparison import compared, ruled
from butterfly.partitioning.loss import Budget, Loss, worst
from butterfly.partitioning.planner import OBJECTIVES

DTYPES = ("float32", "bfloat16", "float16")
_MODEL = "a folder, a .gguf file, smollm2, or a shape as JSON (needs no torch)"


def count(text: str) -> int:
    """Return a positive whole number.

    Args:
        text: An argument.

    Raises:
        ValueError: It is none.
    """
    found = int(text)
    if found < 1:
        raise ValueError
    return found


def size(text: str) -> int:
    """Return gigabytes as bytes.

    Args:
        text: An argument.

    Raises:
        ValueError: It is none.
    """
    found = int(float(text) * 1e9)
    if found < 0:
        raise ValueError
    return found


def _link(text: str) -> Link:
    """Return a link of milliseconds there and back, and megabits a second."""
    trip, speed = map(float, text.split(":"))
    if trip < 0 or speed <= 0:
        raise ValueError
    return Link(trip / 1e3, speed * 1e6 / 8)


def _budget(text: str) -> Budget:
    """Return a budget of nats a token, and of places that stay the same."""
    kl, top1 = map(float, text.split(":"))
    if not (kl >= 0 and 0 <= top1 <= 1):
        raise ValueError
    return Budget(kl, top1)


# what argparse calls them
count.__name__, size.__name__, _link.__name__ = "positive number", "GB", "MS:MBIT"
_budget.__name__ = "KL:TOP1"
MEMORY: dict[str, Any] = {"type": size, "default": 0, "metavar": "GB"}
TENSOR: dict[str, Any] = {"type": count, "default": 1, "metavar": "N"}
TENSOR["help"] = "how many processes compute each layer of a node together"
MEMORY["help"] = "what it offers (0: all that is free)"
BUDGET: dict[str, Any] = {"type": _budget, "default": Budget(), "metavar": "KL:TOP1"}
BUDGET["help"] = (
    "what lossy codecs may change: the most nats a token, and the least share of "
    "places with the same likeliest token; inf:0 for anything"
)


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands.

    Args:
        add: Adds a command and returns its parser.
    """
    _add_probe(add("probe", help="measure this machine"))
    _add_plan(add("plan", help="say which node should hold which layers"))
    _add_simulate(add("simulate", help="say what a placement would serve"))


def _add_probe(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_probe)
    add = parser.add_argument
    add("--model", required=True, help="a folder, a .gguf file, or smollm2")
    add("--name", default="", help="what the node is called (default: the host's name)")
    add("--device", default="cpu", help="where to compute")
    add("--threads", type=count, default=1, help="how many compute")
    add("--tensor", **TENSOR)
    add("--memory", **MEMORY)
    add("--dtype", default="float32", choices=DTYPES, help="of the weights")
    add("--stages", type=count, default=4, help="that codecs are measured for")
    add("--out", metavar="FILE", help="where to write what was measured, for `plan`")
    add("--shape", metavar="FILE", help="where to write the model as numbers, too")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_plan)
    _add_problem(parser)
    add = parser.add_argument
    add("--objective", default="throughput", choices=OBJECTIVES, help="what to want")
    add("--codecs", default="f32", help="that links may use, the most exact first")
    add("--codec-budget", **BUDGET)
    add("--chains", type=count, default=1, help="at most; a head serves one")
    add("--out", metavar="FILE", help="where to write the plan, for `serve --plan`")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_simulate)
    _add_problem(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", metavar="FILE", help="what `plan --out` wrote")
    what.add_argument("--rule", choices=tuple(RULES), help="a rule of others instead")


def _add_problem(parser: argparse.ArgumentParser) -> None:
    """Add what is to be placed, on what, and for how many requests."""
    add, work = parser.add_argument, Workload()
    add("--model", required=True, help=_MODEL)
    add("--dtype", default="float32", choices=DTYPES, help="of the weights")
    add(
        *("--cluster",),
        required=True,
        nargs="+",
        metavar="FILE",
        help="what `probe` wrote, on one machine or several",
    )
    add(
        *("--link",),
        type=_link,
        metavar="MS:MBIT",
        help="round trip and bandwidth of links that no file tells of",
    )
    add("--requests", type=count, default=work.requests, help="at once")
    add("--prompt", type=count, default=work.prompt_tokens, help="tokens, on average")
    add("--answer", type=count, default=work.output_tokens, help="tokens, on average")
    add("--positions", type=count, help="tokens of a lane (default: the longest)")


def _probe(args: argparse.Namespace) -> int:
    """Measure this machine."""
    from butterfly.cluster.probe import probed  # noqa: PLC0415 - torch

    node, shape = probed(
        args.model,
        name=args.name,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        memory=args.memory,
        stages=args.stages,
        tensor=args.tensor,
    )
    cluster = Cluster((node,))
    if args.shape:
        shape.write(args.shape)
    if not args.out:
        _print(json.dumps(cluster.to_json(), indent=1))
        return 0
    cluster.write(args.out)
    kept = sum(layer.kv_token_bytes for layer in shape.layers)
    head, layer = node.head or node.layer, node.layer
    _print(
        f"{node.name}: {node.memory_bytes / 1e9:.3g} GB free; a layer takes "
        f"{layer.fixed_s * 1e3:.3g} ms + {layer.row_s * 1e6:.3g} us a row, "
        f"{layer.token_s * 1e6:.3g} us a prompt token; the head "
        f"{head.fixed_s * 1e3:.3g} ms + {head.row_s * 1e6:.3g} us a row, "
        f"{head.seconds(1) / layer.seconds(1):.3g} layers; {shape.name} keeps "
        f"{kept:.4g} bytes a token"
    )
    _print("; ".join([str(loss) for loss in node.losses]))
    return 0


def _plan(args: argparse.Namespace) -> int:
    """Plan, and print the plan beside what the rules of others give."""
    problem, left_out = _kept(
        _problem(args, [name.strip() for name in args.codecs.split(",")]),
        args.codec_budget,
    )
    names = [codec.name for codec in problem.codecs]
    plan = partition(
        problem.cluster,
        problem.model,
        problem.workload,
        codecs=names,
        objective=args.objective,
        most_chains=args.chains,
    )
    losses = [_loss(problem, name) for name in names]
    plan = replace(
        plan,
        why=(*plan.why, *left_out),
        losses=tuple([loss for loss in losses if loss is not None]),
    )
    if args.out:
        plan.write(args.out)
    _print(f"{plan}\n\n{compared(problem, plan)}")
    return 0


def _kept(problem: Problem, budget: Budget) -> tuple[Problem, list[str]]:
    """Leave out codecs that are not within a budget; say which, and why."""
    kept, said = [], []
    for codec in problem.codecs:
        why = budget.objection(codec.name, _loss(problem, codec.name))
        kept += [] if why else [codec]
        said += [f"{codec.name} is left out: {why}"] if why else []
    return replace(problem, codecs=tuple(kept) or (F32,)), said


def _loss(problem: Problem, codec: str) -> Loss | None:
    """Return what a codec changes on as many links as a chain may have."""
    links = min(len(problem.cluster.nodes), problem.model.size) - 1
    told = [loss for node in problem.cluster.nodes for loss in node.losses]
    return worst(codec, links, told)


def _simulate(args: argparse.Namespace) -> int:
    """Say what a plan or a rule would serve."""
    if args.rule:
        _print(str(ruled(_problem(args, ["f32"]), args.rule)))
        return 0
    plan = Plan.read(args.plan)
    used = [name for chain in plan.chains for name in chain.codecs]
    problem = _problem(args, list(dict.fromkeys([*used, "f32"])))
    plan.must_fit(problem.model.size)
    _print(str(described(problem, plan.chains, [f"what {args.plan} says"])))
    return 0


def _problem(args: argparse.Namespace, codecs: Sequence[str]) -> Problem:
    """Return what is to be placed, on what, for how many requests."""
    work = Workload(args.requests, args.prompt, args.answer, lane_tokens=args.positions)
    cluster = Cluster.read_all(args.cluster, args.link)
    formats = tuple([find_codec(name) for name in codecs])
    return Problem(cluster, _shape(args), work, formats)


def _shape(args: argparse.Namespace) -> ModelShape:
    """Return a model as numbers."""
    if args.model.endswith(".json"):
        return ModelShape.read(args.model)
    from butterfly.cluster.probe import shaped  # noqa: PLC0415 - torch

    return shaped(args.model, args.dtype)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
