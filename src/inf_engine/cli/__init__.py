"""The command line: ``inf-engine run``, ``serve``, ``graph``, ``journal``, ``check``.

Exit codes: 0 all is well, 1 inputs failed (or endpoints, or journals differ), 2 wrong
usage or setup, with a message and no traceback, 130 after Ctrl-C, 143 after SIGTERM
(of ``serve`` only if something under way was cancelled, else 0).
"""

import os
import sys
from collections.abc import Sequence

from inf_engine.cli.console import say
from inf_engine.cli.logs import logging_to_stderr
from inf_engine.cli.parser import parser_of
from inf_engine.cli.run import command_of
from inf_engine.errors import InfEngineError
from inf_engine.startup import INTERRUPTED, started


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments; None for those of the process.
    """
    prog = _prog()
    try:
        started()
        return _done(prog, list(sys.argv[1:] if argv is None else argv))
    except InfEngineError as exc:
        say(f"{prog}: error: {exc}")
        return 2
    except KeyboardInterrupt:
        say(f"{prog}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # e.g. into head; nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _done(prog: str, given: list[str]) -> int:
    """Do what arguments say; return the exit code."""
    try:
        args = parser_of(prog).parse_args(given)
    except SystemExit as exc:  # argparse has said what is wrong
        return exc.code if isinstance(exc.code, int) else 2
    args.command = command_of(prog, given)
    with logging_to_stderr(args.verbose):
        code: int = args.do(args)
        sys.stdout.flush()
        return code


def _prog() -> str:
    """Return how this program was called."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return f"{os.path.basename(sys.executable)} -m inf_engine"
    return "inf-engine"
