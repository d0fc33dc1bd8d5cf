"""Tracing: ``forward`` runs with proxies and leaves an `InferenceGraph`."""

from inf_engine.tracing.proxy import AsyncProxy, Proxy
from inf_engine.tracing.symbolic import trace
from inf_engine.tracing.tracer import Frame, Program, Tracer

__all__ = ["AsyncProxy", "Frame", "Program", "Proxy", "Tracer", "trace"]
