"""The command line: ``butterfly serve``, ``node`` and ``bench``.

Exit codes: 0 all is well, 2 wrong usage or setup, with a message and no traceback, 130
after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from butterfly.bench import BenchOptions, measure
from butterfly.cluster.options import HeadOptions
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
    common.add_argument(
        "--allow-public",
        action="store_true",
        help="listen on addresses that strangers may reach, too",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    options: dict[str, Any] = {
        "parents": [common],
        "allow_abbrev": False,
        "formatter_class": argparse.ArgumentDefaultsHelpFormatter,
    }
    _add_serve(commands.add_parser("serve", help="serve a model", **options))
    _add_node(commands.add_parser("node", help="offer a machine", **options))
    _add_bench(commands.add_parser("bench", help="measure a server", **options))
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_serve)
    add = parser.add_argument
    add("--model", required=True, help="a folder, a .gguf file, or smollm2")
    add("--stages", type=_count, default=1, metavar="N", help="how many nodes to use")
    nodes = parser.add_mutually_exclusive_group()
    nodes.add_argument(
        *("--nodes",),
        type=_number,
        metavar="N",
        help="how many to start here (default: as many as --stages)",
    )
    nodes.add_argument(
        *("--no-spawn",),
        dest="nodes",
        action="store_const",
        const=0,
        help="start none, wait for `butterfly node --join`",
    )
    add("--host", default="127.0.0.1", help="the address of the API")
    add("--port", type=_number, default=8000, help="its port, 0 for any")
    add("--address", default="127.0.0.1", help="the address for nodes")
    add("--control-port", type=_number, default=0, help="the port for them, 0 for any")
    add("--name", default="", help="what the model is called (default: --model)")
    add("--api-key", default="", help=f"what clients must send (default: ${API_KEY})")
    add("--lanes", type=_count, default=16, help="how many sequences at once")
    add("--positions", type=_count, default=1024, help="how many tokens each")
    add("--chunk", type=_count, default=256, help="the most rows of prompts at once")
    add("--codec", default="f32", help="how hidden states travel: f32, f16")
    add(
        *("--dtype",),
        default="float32",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights",
    )
    add("--threads", type=_count, default=1, help="how many a node computes with")
    add("--no-reuse", action="store_true", help="compute every prompt from the start")
    add("--body", type=_count, default=4 << 20, help="the most bytes of a request")


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=_node)
    add = parser.add_argument
    add("--join", required=True, type=_place, metavar="HOST:PORT", help="the head")
    add("--name", default="", help="what it is called (default: the host's name)")
    add("--address", default="", help="where frames come in (default: on the way)")
    add("--device", default="cpu", help="where to compute")
    add("--threads", type=_count, default=1, help="how many compute")


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
    nodes = args.stages if args.nodes is None else args.nodes
    key = args.api_key or os.environ.get(API_KEY, "")
    ours = secret(is_needed=nodes < args.stages)
    address = address_of(args.address, allows_public=args.allow_public)
    host = _api_host(args, key)
    from butterfly.api.server import ServeOptions, serve  # noqa: PLC0415 - torch

    head = HeadOptions(
        args.model,
        args.stages,
        ours,
        address=address,
        control_port=args.control_port,
        lanes=args.lanes,
        positions=args.positions,
        chunk=args.chunk,
        codec=args.codec,
        dtype=args.dtype,
        reuse=not args.no_reuse,
    )
    options = ServeOptions(
        head,
        nodes,
        host=host,
        port=args.port,
        name=args.name,
        api_key=key,
        most_bytes=args.body,
        threads=args.threads,
    )
    return _leave(asyncio.run(serve(options)))


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
    host, port = args.join
    ours = secret(is_needed=True)
    given = args.address or own_address(host, port)
    address = address_of(given, allows_public=args.allow_public)
    from butterfly.cluster.node import NodeAgent, NodeOptions  # noqa: PLC0415 - torch

    options = NodeOptions(
        host,
        port,
        ours,
        name=args.name,
        address=address,
        device=args.device,
        threads=args.threads,
    )
    asyncio.run(NodeAgent(options).run())
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


def _count(text: str) -> int:
    """Return a positive whole number."""
    found = int(text)
    if found < 1:
        raise ValueError
    return found


def _place(text: str) -> tuple[str, int]:
    """Return a host and a port."""
    host, _, port = text.rpartition(":")
    if not host:
        raise ValueError
    return host.strip("[]"), int(port)


_number.__name__, _count.__name__ = "number", "positive number"  # for argparse
_place.__name__ = "HOST:PORT"
