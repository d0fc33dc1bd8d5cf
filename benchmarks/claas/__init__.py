"""Benchmarks of claas."""
