"""Butterfly: serves a transformer that is too large for one machine."""
