"""A node's origin: the metadata on the user's line, module and operator, which is kept from graph to graph."""

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
    "fwd_nn_module_stack",  # a backward node's forward operator; set by AOTAutograd, 2.11 to 2.15
    "fwd_source_fn_stack",
)


PLACE = "place"  # meta key of a node: its placement and stage, as written in a dump


def origin(node: Node) -> dict[str, Any]:
    """The metadata to copy to a node of another graph that replaces ``node``."""
    return {key: node.meta[key] for key in ORIGIN if key in node.meta}


def is_backward(meta: Mapping[str, Any]) -> bool:
    """Whether a node belongs to the backward of a forward operator."""
    return "fwd_nn_module_stack" in meta
