"""Graphs and programs as text: readable code, a file that runs."""
