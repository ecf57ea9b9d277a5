"""Dynamo: what it is told, what is replaced in it during a call of ours, and what it says.

Checked on torch 2.11, 2.13 and 2.15.
"""
