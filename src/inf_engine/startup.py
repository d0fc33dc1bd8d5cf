"""What happens between the first line of ``inf-engine`` and its `main`.

Before `main` can catch anything, the library is loaded, which takes a tenth of a
second. Ctrl-C in that time would print where in the imports it came. So the face
imports this file first, and where the process is our own program, and only there, a
SIGINT ends it at once, quietly, with the code of an interrupted program. In every
other program nothing is changed by an import.
"""

import os
import signal
import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 and the number of SIGINT."""


def is_program(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Say whether a process is our command line.

    Args:
        argv: Its ``sys.argv``. While ``python -m`` looks for a module, that begins
            with ``-m``.
        original: Its ``sys.orig_argv``, which has the interpreter's options.
    """
    name = os.path.basename(argv[0]) if argv else ""
    if name == "-m":
        pairs = zip(original, original[1:], strict=False)
        return next((then for flag, then in pairs if flag == "-m"), "") == "inf_engine"
    return name.removesuffix(".exe") == "inf-engine"


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def _begin() -> None:
    """Leave quietly at a SIGINT from now on, until `started`."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default and is_program(sys.argv, sys.orig_argv):
        signal.signal(signal.SIGINT, _leave)


def started() -> None:
    """Take note that `main` runs: it is told of a SIGINT by a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_begin()
