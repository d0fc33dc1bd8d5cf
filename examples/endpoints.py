"""Which model the examples talk to.

In this order: the resources file named on the command line, OPENAI_API_KEY,
ANTHROPIC_API_KEY, and otherwise the small model that runs inside this process
(`make setup` installs it; no key, no network).
"""

import os
import sys
from typing import Any


def resources() -> Any:
    """Return resources that bind the alias ``fast``."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    if os.environ.get("OPENAI_API_KEY"):
        return _one(provider="openai", model="gpt-4.1-mini", max_concurrent=16)
    if os.environ.get("ANTHROPIC_API_KEY"):
        return _one(provider="anthropic", model="claude-haiku-4-5", max_concurrent=8)
    return _one(provider="local")


def _one(**endpoint: Any) -> dict[str, Any]:
    return {"endpoints": {"fast": endpoint}}
