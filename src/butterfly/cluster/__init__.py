"""The processes: nodes that hold layers, and the head that they join."""
