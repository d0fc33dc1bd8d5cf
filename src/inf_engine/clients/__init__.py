"""How a request reaches a provider: one client per API, one transport under them."""
