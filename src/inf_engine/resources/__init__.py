"""What an alias is bound to, and the only road to a client."""
