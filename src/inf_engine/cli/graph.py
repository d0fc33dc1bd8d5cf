"""``inf-engine graph``: what a module calls, nothing run."""

import argparse

from inf_engine.cli.console import show
from inf_engine.cli.target import load_module
from inf_engine.tracing.symbolic import trace


def graph(args: argparse.Namespace) -> int:
    """Print the graph of a module; return the exit code.

    Args:
        args: The parsed command line.

    Raises:
        UsageError: If there is no such module, or it cannot be traced.
    """
    traced = trace(load_module(args.target, args.set))
    forms = {"mermaid": traced.to_mermaid, "dot": traced.to_dot}
    show(forms.get(args.form, traced.__str__)().rstrip("\n"))
    return 0
