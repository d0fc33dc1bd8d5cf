"""Figures of butterfly."""
