"""Fakes and clocks for tests of pipelines; public, and used by our own tests."""

from inf_engine.testing.answers import plausible
from inf_engine.testing.clients import FunctionClient, ScriptedClient
from inf_engine.testing.clock import VirtualTimeLoop
from inf_engine.testing.eager import assert_runs_alike, eager
from inf_engine.testing.faults import chaos
from inf_engine.testing.server import LoopbackServer

__all__ = [
    "FunctionClient",
    "LoopbackServer",
    "ScriptedClient",
    "VirtualTimeLoop",
    "assert_runs_alike",
    "chaos",
    "eager",
    "plausible",
]
