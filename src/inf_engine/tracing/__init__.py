"""Tracing: ``forward`` runs with proxies and leaves an `InferenceGraph`."""
