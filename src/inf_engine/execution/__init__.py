"""Execution: the bridge between what a trace recorded and what answers it."""
