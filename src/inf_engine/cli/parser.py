"""The grammar of the command line."""

import argparse
from typing import Any

from inf_engine.cli.check import check
from inf_engine.cli.graph import graph
from inf_engine.cli.journal import diff_journals, export, show_journal
from inf_engine.cli.run import run
from inf_engine.cli.serve import serve
from inf_engine.journal import EXPORT_COLUMNS
from inf_engine.journal.rows import LIBRARY
from inf_engine.serving.http import MOST_BYTES

_TARGET = "package.module:Class, or a function that returns a module"
_EXIT = (
    "exit codes: 0 fine, 1 failed inputs, 2 wrong usage or setup, 130 Ctrl-C, "
    "143 SIGTERM"
)
_LINES = (
    "A line of IN.jsonl is one JSON value. An array gives the inputs of forward by "
    "position, an object by the names of its parameters; anything else is the only "
    "input. A key that is no parameter is an error; an only input that is an object "
    "or an array itself is put into an array: [{...}]. Where forward has one "
    "parameter and it is annotated as a dict, an object of other keys is that input. "
    "An input that forward annotates as an Image is a path, beside IN.jsonl, or an "
    "address. "
)


def parser_of(prog: str) -> argparse.ArgumentParser:
    """Return the parser; what it parses has a `do`, which takes it.

    Args:
        prog: How the program was called.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run pipelines of LLM calls over files of inputs.",
        epilog=_EXIT,
        allow_abbrev=False,
    )
    parser.set_defaults(verbose=0)
    parser.add_argument("--version", action="version", version=f"inf-engine {LIBRARY}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log each input to stderr; twice: each node too",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    options: dict[str, Any] = {"allow_abbrev": False}
    loud: dict[str, Any] = {**options, "parents": [common]}
    _add_run(commands.add_parser("run", help="run a module over inputs", **loud))
    _add_serve(commands.add_parser("serve", help="a module over HTTP", **loud))
    _add_graph(commands.add_parser("graph", help="print a module's graph", **options))
    _add_journal(commands.add_parser("journal", help="look at a journal"), options)
    _add_check(commands.add_parser("check", help="call each endpoint", **options))
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="pkg.module:Class", help=_TARGET)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the class: JSON, or else text; may be repeated",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _LINES + _EXIT
    parser.set_defaults(do=run)
    _add_target(parser)
    add = parser.add_argument
    add("--inputs", required=True, metavar="IN.jsonl", help="one JSON value a line")
    add("--out", required=True, metavar="OUT.jsonl", help="one line for each input")
    add("--resources", required=True, metavar="FILE", help="TOML, YAML or JSON")
    add("--journal", metavar="FILE", help="keep answers, to go on after a break")
    add("--cache", metavar="FILE", help="reuse answers of other runs")
    add(
        "--errors",
        choices=("collect", "raise"),
        default="collect",
        help="go on when an input fails (the default), or stop",
    )
    add("--ordered", action="store_true", help="write outputs in the inputs' order")
    add("--max-inflight", type=int, metavar="N", help="the most inputs at once")
    add("--budget-usd", type=float, metavar="X", help="the most to spend, in USD")
    add("--budget-requests", type=int, metavar="N", help="the most requests")
    add("--budget-tokens", type=int, metavar="N", help="the most tokens")
    add("--budget-seconds", type=float, metavar="S", help="send nothing after it")
    add("--trace", metavar="FILE", help="write a Chrome trace, e.g. for Perfetto")
    add("--no-progress", action="store_true", help="show no progress bar")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=serve)
    parser.epilog = (
        "exit codes: 0 all was answered, 2 wrong usage or setup, 130 or 143 "
    )
    parser.epilog += "if the end of --grace, or a second signal, cancelled something"
    _add_target(parser)
    add = parser.add_argument
    add("--resources", required=True, metavar="FILE", help="TOML, YAML or JSON")
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    add("--port", type=_count, default=8000, help="the port (8000), 0 for any")
    add("--api-key-env", metavar="NAME", help="the variable with the clients' key")
    add("--tls-cert", metavar="FILE", help="the certificate (PEM), for HTTPS")
    add("--tls-key", metavar="FILE", help="its key, if it is in a file of its own")
    add("--name", help="what clients call the module; its class if left out")
    add("--reports", metavar="FOLDER", help="HTML reports to browse beside the runs")
    add("--keep-runs", type=_count, default=100, metavar="N", help="to look at (100)")
    add("--max-inflight", type=_some, default=64, metavar="N", help="runs at once (64)")
    add("--max-bytes", type=_some, default=MOST_BYTES, metavar="N", help="of a request")
    add("--timeout", type=_seconds, metavar="S", help="the most seconds of a run")
    add("--grace", type=_seconds, default=30.0, metavar="S", help="to finish in (30)")
    add("--cache", metavar="FILE", help="reuse answers of equal requests")
    add("--budget-usd", type=float, metavar="X", help="the most to spend, in USD")


def _add_graph(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=graph, form="text")
    _add_target(parser)
    forms = parser.add_mutually_exclusive_group()
    for form in ("text", "mermaid", "dot"):
        forms.add_argument(
            f"--{form}",
            dest="form",
            action="store_const",
            const=form,
            help=f"as {form}",
        )


def _add_journal(parser: argparse.ArgumentParser, options: dict[str, Any]) -> None:
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shown = verbs.add_parser("show", help="print its rows", **options)
    shown.set_defaults(do=show_journal)
    shown.add_argument("file", metavar="FILE")
    shown.add_argument("--limit", type=_count, metavar="N", help="the first N only")
    shown.add_argument("--full", action="store_true", help="with prompts and answers")
    compared = verbs.add_parser(
        "diff", help="compare two", epilog="exits with 1 if they differ", **options
    )
    compared.set_defaults(do=diff_journals)
    compared.add_argument("a", metavar="A")
    compared.add_argument("b", metavar="B")
    exported = verbs.add_parser(
        "export",
        help="write JSON lines or Parquet",
        epilog=f"columns: {', '.join(EXPORT_COLUMNS)}",
        **options,
    )
    exported.set_defaults(do=export)
    exported.add_argument("file", metavar="FILE")
    exported.add_argument(
        "--out",
        required=True,
        metavar="ROWS",
        help="NAME.jsonl, NAME.parquet (extra 'parquet'), or - for stdout",
    )
    exported.add_argument("--force", action="store_true", help="write over ROWS")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(do=check)
    parser.add_argument("resources", metavar="RESOURCES", help="TOML, YAML or JSON")
    parser.add_argument("--no-call", action="store_true", help="look for keys only")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="wait so long (30)"
    )


def _count(text: str) -> int:
    """Return a whole number that is not negative."""
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _some(text: str) -> int:
    """Return a whole number from 1."""
    return _count(text) if text.strip() != "0" else _count("-1")


def _seconds(text: str) -> float:
    """Return a positive number of seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


_count.__name__, _some.__name__ = "number", "number from 1"
_seconds.__name__ = "number of seconds"  # for argparse
