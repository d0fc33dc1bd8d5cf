"""Serving: a module behind HTTP, and pages about what it does."""
