"""Frames, and the links that carry them from stage to stage."""
