"""AOTAutograd: a graph from Dynamo becomes a forward and a backward graph, along one of the roads.

Checked on torch 2.11, 2.13 and 2.15.
"""
