"""Graphs, programs and reports as text: readable code, a file that runs, plain tables."""
