"""The parts of the pictures: HTML text, layout of a graph, timeline, cards."""
