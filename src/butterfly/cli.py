"""The command line: ``butterfly serve``, ``node``, ``bench``; see `commands`, too.

Exit codes: 0 all is well, 2 wrong usage or setup, with a message and no traceback, 130
after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from butterfly.bench import BenchOptions, measure
from butterfly.cluster.options import SPLITS, HeadOptions
from butterfly.commands import BUDGET, DTYPES, MEMORY, TENSOR, add_commands
from butterfly.commands import count as _count
from butterfly.config import (
    API_KEY,
    SECRET,
    VERSION,
    address_of,
    is_private,
    own_address,
    secret,
)
from butterfly.errors import ButterflyError, ConfigurationError
from butterfly.partitioning import Plan

_INTERRUPTED = 130
_EPILOG = (
    f"environment: {SECRET}, which all nodes of a cluster must know; {API_KEY}. "
    "exit codes: 0 fine, 2 wrong usage or setup, 130 Ctrl-C, 143 SIGTERM"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments; None for those of the process.
    """
    try:
        args = parser_of().parse_args(argv)
    except SystemExit as exc:  # argparse has said what is wrong
        return exc.code if isinstance(exc.code, int) else 2
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    logging.basicConfig(
        level=levels[min(args.verbose, 2)],
        format="%(asctime)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        code: int = args.do(args)
    except ButterflyError as exc:
        _say(f"butterfly: error: {exc}")
        code = 2
    except KeyboardInterrupt:
        code = _INTERRUPTED
    return code


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells a default that there is, and that the words do not tell already."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.help or ""
        is_told = "(default: " in told or "(0: " in told
        is_none = action.nargs == 0 or action.default in (None, "")
        return told if is_told or is_none else super()._get_help_string(action)


def parser_of() -> argparse.ArgumentParser:
    """Return the parser; what it parses has a `do`, which takes it."""
    parser = argparse.ArgumentParser(
        prog="butterfly",
        description="Serve a transformer that is too large for one machine.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"butterfly {VERSION}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        *("-v", "--verbose"), action="count", default=0, help="log more to stderr"
    )
    listening = argparse.ArgumentParser(add_help=False)
    listening.add_argument(
        "--allow-public",
        action="store_true",
        help="listen on addresses that strangers may reach, too",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    options: dict[str, Any] = {
        "parents": [common, listening],
        "allow_abbrev": False,
        "formatter_class": _Help,
    }
    _add_serve(commands.add_parser("serve", help="serve a model", **options))
    _add_node(commands.add_parser("node", help="offer a machine", **options))
    options["parents"] = [common]
    _add_bench(commands.add_parser("bench", help="measure a server", **options))
    add_commands(partial(commands.add_parser, **options))
    return parser


def _add_rings(parser: argparse.ArgumentParser) -> None:
    """Say who holds what."""
    add = parser.add_argument
    add(
        *("--stages",),
        type=_count,
        metavar="N",
        help="how many nodes to use (default: 1, or as the plan has)",
    )
    add(
        *("--replicas",),
        type=_replicas,
        default=0,
        metavar="N|auto",
        help="how many rings of so many nodes, each with the whole model "
        "(default: auto, as many as the plan has chains, or 1)",
    )
    add(
        *("--plan",),
        default=SPLITS[0],
        metavar="|".join(("FILE", *SPLITS)),
        help="who holds which layers: what `plan --out` wrote, or a rule",
    )
    nodes = parser.add_mutually_exclusive_group()
    nodes.add_argument(
        *("--nodes",),
        type=_number,
        metavar="N",
        help="how many to start here (default: --stages times --replicas)",
    )
    nodes.add_argument(
        *("--no-spawn",),
        dest="nodes",
        action="store_const",
        const=0,
        help="start none, wait for `butterfly node --join`",
    )


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_serve)
    add = parser.add_argument
    add("--model", required=True, help="a folder, a .gguf file, or smollm2")
    _add_rings(parser)
    add("--host", default="127.0.0.1", help="the address of the API")
    add("--port", type=_number, default=8000, help="its port, 0 for any")
    add("--address", default="127.0.0.1", help="the address for nodes")
    add("--control-port", type=_number, default=0, help="the port for them, 0 for any")
    add("--name", default="", help="what the model is called (default: --model)")
    add("--api-key", default="", help=f"what clients must send (default: ${API_KEY})")
    _add_limits(parser)
    add("--codec", default="f32", help="how hidden states travel, if no plan says so")
    add("--codec-budget", **BUDGET)
    add(
        *("--dtype",),
        default="float32",
        choices=DTYPES,
        help="of the weights",
    )
    add("--threads", type=_count, default=1, help="how many a node computes with")
    add("--tensor", **TENSOR)
    _add_faults(parser)
    add("--no-reuse", action="store_true", help="compute every prompt from the start")
    add("--body", type=_count, default=4 << 20, help="the most bytes of a request")


def _add_faults(parser: argparse.ArgumentParser) -> None:
    seconds: dict[str, Any] = {"type": _seconds, "metavar": "SECONDS"}
    add = parser.add_argument
    add(
        *("--patience",),
        default=10.0,
        **seconds,
        help="a frame that is out longer, and 8 times longer than usual, is stuck",
    )
    add("--wait", default=60.0, **seconds, help="how long requests wait for a node")
    add(
        *("--rebalance",),
        default=60.0,
        **seconds,
        help="slow stages get fewer layers, at most this often, 0 for never",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        *("--lanes",),
        type=_count,
        help="how many sequences at once (default: as the plan has, else 16)",
    )
    add(
        *("--positions",),
        type=_count,
        help="how many tokens each (default: as the plan has, else 1024)",
    )
    add(
        *("--rows",),
        type=_count,
        default=0,
        help="the most sequences that decode in a frame (0: as the plan has)",
    )
    add(
        *("--chunk",),
        type=_count,
        default=0,
        help="the most rows of prompts in a frame (0: as the plan has, else 256 over "
        "the frames)",
    )
    add(
        *("--frames",),
        type=_count,
        default=0,
        help="the most frames under way (0: as the plan has, else one a stage)",
    )
    add(
        *("--speculate",),
        type=_number,
        default=8,
        metavar="K",
        help="guess up to K tokens of a lone answer from what was said (0: none)",
    )


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_node)
    add = parser.add_argument
    add("--join", required=True, type=_place, metavar="HOST:PORT", help="the head")
    add("--name", default="", help="what it is called (default: the host's name)")
    add("--address", default="", help="where frames come in (default: on the way)")
    add("--device", default="cpu", help="where to compute")
    add("--memory", **MEMORY)
    add("--threads", type=_count, default=1, help="how many compute")
    add("--tensor", **TENSOR)


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_bench)
    add = parser.add_argument
    add("--url", required=True, help="any server that speaks OpenAI's API")
    add("--model", default="", help="which model (default: the first one there)")
    add("--streams", type=_count, default=8, help="how many requests at once")
    add("--seconds", type=_count, default=30, help="for how long")
    add("--words", type=_count, default=64, help="of a prompt")
    add("--tokens", type=_count, default=64, help="the most of an answer")
    add("--ignore-eos", action="store_true", help="no answer ends before that")
    add("--api-key", default="", help=f"what to send (default: ${API_KEY})")


def _bench(args: argparse.Namespace) -> int:
    """Measure a server."""
    options = BenchOptions(
        args.url,
        args.model,
        args.streams,
        args.seconds,
        args.words,
        args.tokens,
        ignore_eos=args.ignore_eos,
        api_key=args.api_key or os.environ.get(API_KEY, ""),
    )
    print(measure(options), flush=True)  # noqa: T201
    return 0


def _serve(args: argparse.Namespace) -> int:
    """Serve a model."""
    plan = None if args.plan in SPLITS else Plan.read(args.plan)
    stages = args.stages or _stages(plan)
    needed = stages * _rings(args, plan)
    if plan is not None:
        needed = sum(len(chain.stages) for chain in plan.chains)
    nodes = needed if args.nodes is None else args.nodes
    if plan is not None and nodes >= needed:
        _check_names(plan, nodes)
    key = args.api_key or os.environ.get(API_KEY, "")
    ours = secret(is_needed=nodes < needed)
    address = _interface(args.address, args)
    host = _api_host(args, key)
    from butterfly.api.server import ServeOptions, serve  # noqa: PLC0415 - torch

    options = ServeOptions(
        _head_options(args, plan, stages, ours, address),
        nodes,
        host=host,
        port=args.port,
        name=args.name,
        api_key=key,
        most_bytes=args.body,
        threads=args.threads,
        tensor=args.tensor,
    )
    return _leave(asyncio.run(serve(options)))


def _interface(name: str, args: argparse.Namespace) -> str:
    """Return the address that frames or nodes come in at: it is told to others."""
    address = address_of(name, allows_public=args.allow_public)
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        raise ConfigurationError(
            f"{name} is no address that others can connect to: name the --address of "
            "one interface."
        )
    return address


def _replicas(text: str) -> int:
    """Return how many rings are asked for, 0 for as many as the plan has."""
    return 0 if text == "auto" else _count(text)


def _check_names(plan: Plan, nodes: int) -> None:
    """Refuse a plan for other nodes than those that are started here."""
    own = [f"node-{number}" for number in range(1, nodes + 1)]
    names = [name for chain in plan.chains for name in chain.nodes if name not in own]
    if names:
        raise ConfigurationError(
            f"the plan names {', '.join(names)}, and the nodes that are started here "
            f"are {', '.join(own)}: say --no-spawn and start `butterfly node --name "
            f"{names[0]} --join`, or plan for these."
        )


def _stages(plan: Plan | None) -> int:
    """Return how many stages there are if nobody says so."""
    return len(plan.chains[0].stages) if plan is not None and plan.chains else 1


def _rings(args: argparse.Namespace, plan: Plan | None) -> int:
    """Return how many rings there are if nobody says so."""
    return args.replicas or max(1, len(plan.chains) if plan is not None else 1)


def _head_options(
    args: argparse.Namespace, plan: Plan | None, stages: int, ours: str, address: str
) -> HeadOptions:
    """Return what the head is told; what is not said is as the plan has it."""
    lanes, positions = 16, 1024
    if plan is not None and plan.chains:
        lanes = max(chain.lanes for chain in plan.chains)
        positions = plan.lane_tokens or positions
    return HeadOptions(
        args.model,
        stages,
        ours,
        address=address,
        control_port=args.control_port,
        lanes=args.lanes or lanes,
        positions=args.positions or positions,
        rows=args.rows,
        chunk=args.chunk,
        frames=args.frames,
        codec=args.codec,
        budget=args.codec_budget,
        dtype=args.dtype,
        reuse=not args.no_reuse,
        speculate=args.speculate,
        split=SPLITS[0] if plan else args.plan,
        plan=plan,
        patience=max(0.1, args.patience),
        wait=args.wait,
        replicas=_rings(args, plan),
        rebalance=args.rebalance,
    )


def _api_host(args: argparse.Namespace, key: str) -> str:
    """Return where the API listens: strangers need a key."""
    host = address_of(args.host, allows_public=True)
    if not (is_private(host) or key or args.allow_public):
        raise ConfigurationError(
            f"{args.host} may be reached by strangers: set an --api-key, name a "
            "private or loopback address, or say --allow-public."
        )
    return host


def _node(args: argparse.Namespace) -> int:
    """Offer a process to a head."""
    ours = secret(is_needed=True)
    given = args.address or own_address(*args.join)
    address = _interface(given, args)
    from butterfly.cluster.node import NodeAgent, NodeOptions  # noqa: PLC0415 - torch

    options = NodeOptions(
        *args.join,
        ours,
        name=args.name,
        address=address,
        memory=args.memory,
        device=args.device,
        threads=args.threads,
        tensor=args.tensor,
    )
    try:
        asyncio.run(NodeAgent(options).run())
    except ButterflyError as exc:
        _say(f"butterfly: error: {exc}")
        return _leave(2)
    return _leave(0)


def _leave(code: int) -> int:
    """End the process: threads that wait inside gloo cannot be joined."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _number(text: str) -> int:
    """Return a whole number that is not negative."""
    found = int(text)
    if found < 0:
        raise ValueError
    return found


def _seconds(text: str) -> float:
    """Return a time that is not negative."""
    found = float(text)
    if not found >= 0:
        raise ValueError
    return found


def _place(text: str) -> tuple[str, int]:
    """Return a host and a port."""
    host, _, port = text.rpartition(":")
    if not host:
        raise ValueError
    return host.strip("[]"), int(port)


_number.__name__, _place.__name__ = "number", "HOST:PORT"  # for argparse
_seconds.__name__ = "seconds"
