"""AOTAutograd: a graph from Dynamo becomes graphs of forward and backward, along one of the roads.

Checked on torch 2.11, 2.13 and 2.15.
"""
