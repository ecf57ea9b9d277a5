"""A value of Dynamo's graph without its gradient."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from ...ir.names import USERS_NAME, users_name_of


def detach(gm: GraphModule, value: Node, before: Node) -> Node:
    """A node that detaches a value, under the user's name for it, inserted before another node."""
    with gm.graph.inserting_before(before):
        node = gm.graph.call_method("detach", (value,))
    example = value.meta.get("example_value")
    example = example.detach() if isinstance(example, torch.Tensor) else example
    node.meta |= {"example_value": example, USERS_NAME: users_name_of(value)}
    return node
