"""Dynamo: what it is told, what is replaced in it during a call of ours, and what it says."""
