"""Compares compiled code with the graph that it was compiled from."""
