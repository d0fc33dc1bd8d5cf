"""Scale out: the same `map` and `stream` over more processes and machines."""

from inf_engine.scale.ray_backend import RayBackend

__all__ = ["RayBackend"]
