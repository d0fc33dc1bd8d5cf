"""How a request reaches a provider: one client per API, one transport under them."""

from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.local import LocalClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.sdk import from_sdk, is_sdk

__all__ = ["AnthropicClient", "LocalClient", "OpenAIClient", "from_sdk", "is_sdk"]
