"""What an alias is bound to, and the only road to a client."""

from inf_engine.resources.budget import Budget
from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.retry import RetryPolicy

__all__ = [
    "Budget",
    "EndpointConfig",
    "ResourceConfig",
    "ResourceManager",
    "RetryPolicy",
]
