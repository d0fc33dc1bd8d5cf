"""What an alias is bound to, and the only road to a client."""

from inf_engine.resources.config import EndpointConfig, ResourceConfig
from inf_engine.resources.manager import ResourceManager

__all__ = ["EndpointConfig", "ResourceConfig", "ResourceManager"]
