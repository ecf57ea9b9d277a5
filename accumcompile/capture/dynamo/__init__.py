"""Dynamo: its settings, what is replaced in it while a decorated step is called, and what it reports.

Checked on torch 2.11, 2.13 and 2.15.
"""
