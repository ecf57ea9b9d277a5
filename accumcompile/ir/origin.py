"""Where a node comes from: what its meta tells of the user's line, module and operator, kept from graph to graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

ORIGIN = (
    "stack_trace",
    "seq_nr",
    "nn_module_stack",
    "original_aten",
    "from_node",
    "source_fn_stack",
    "fwd_nn_module_stack",  # of the operator whose backward a node is; by AOTAutograd, 2.11 to 2.15
    "fwd_source_fn_stack",
)


PLACE = "place"  # in a node's meta: its placement and stage, as a dump writes them


def origin(node: Node) -> dict[str, Any]:
    """What a node of another graph that stands for ``node`` is to know."""
    return {key: node.meta[key] for key in ORIGIN if key in node.meta}


def is_backward(meta: Mapping[str, Any]) -> bool:
    """Whether a node is part of the backward of one of the forward's."""
    return "fwd_nn_module_stack" in meta
