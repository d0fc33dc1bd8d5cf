"""What a node computes: weights, layers over lanes, sampling."""
