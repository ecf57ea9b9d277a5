"""Merges equal nodes.

Before::

    n = aten.sym_size.int(x, 0); a = aten.sum.dim_IntList(x, [0])
    m = aten.sym_size.int(x, 0); b = aten.sum.dim_IntList(x, [0])

After::

    n = aten.sym_size.int(x, 0); a = aten.sum.dim_IntList(x, [0])

Two reductions of one value would be two barriers.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, GraphModule, Node

from accumcompile.ir.operands import is_decided_by_data
from accumcompile.rules.table import is_impure

from .manager import Context


def deduplicate(gm: GraphModule, context: Context) -> GraphModule:
    """A copy of ``gm`` without nodes that repeat an earlier one; random draws and mutations are left alone."""
    graph = Graph()
    new: dict[Node, Node] = {}
    seen: dict[Any, Node] = {}
    for node in gm.graph.nodes:
        key = _key(node, new)
        if key is not None and key in seen:
            new[node] = seen[key]
            continue
        new[node] = graph.node_copy(node, new.__getitem__)
        if key is not None:
            seen[key] = new[node]
    return GraphModule(gm, graph)


def _key(node: Node, new: dict[Node, Node]) -> Any:
    """A key that equal nodes share; None for nodes that are never merged.

    Among those are nodes that introduce a data-dependent size: values computed from it have its symbol in their shapes.
    """
    if node.op != "call_function" or is_impure(node) or is_decided_by_data(node):
        return None
    return node.target, _frozen(node.args, new), _frozen(node.kwargs, new)


def _frozen(value: Any, new: dict[Node, Node]) -> Any:
    if isinstance(value, Node):
        return new[value]
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v, new) for v in value)
    if isinstance(value, dict):
        return tuple((k, _frozen(v, new)) for k, v in value.items())
    return (type(value), str(value) if isinstance(value, (float, slice)) else value)
