"""Helpers of all passes: copy a graph node by node, replacing some nodes by others."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from accumcompile.ir.arithmetic import apply
from accumcompile.ir.origin import origin
from accumcompile.ir.torch_api import OpOverload, in_fake_mode, pytree
from accumcompile.rules.table import is_impure

Emit = Callable[..., Any]  # emit(target, *arguments): a node; arithmetic on known numbers is evaluated at once
Rewrite = Callable[[Emit, Node, tuple, dict], Any]


def rewrite(gm: GraphModule, table: Mapping[Any, Rewrite]) -> GraphModule:
    """A copy of ``gm`` in which each node whose target is in ``table`` is replaced by what its row emits.

    A row is called with ``emit``, the old node, and that node's arguments in the new graph. It returns the new node, or
    None to keep the old one. ``emit(target, *args, **kwargs)`` adds a node and computes its fake value.
    """
    graph = Graph()
    new: dict[Node, Any] = {}
    for node in gm.graph.nodes:
        if node.target is operator.getitem and isinstance(new[node.args[0]], tuple):
            new[node] = new[node.args[0]][node.args[1]]
            continue
        row = table.get(node.target) if node.op == "call_function" else None
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), new.__getitem__)
        replacement = row(_emitter(graph, node), node, args, kwargs) if row else None
        new[node] = graph.node_copy(node, new.__getitem__) if replacement is None else replacement
    graph.eliminate_dead_code(is_impure_node=must_stay)
    return GraphModule(gm, graph)


def copied(gm: GraphModule) -> GraphModule:
    """A copy of the graph, to be changed in place."""
    return GraphModule(gm, _in_order(gm.graph.nodes))


def placeholders_first(graph: Graph) -> Graph:
    """The same graph with its inputs in front, as AOTAutograd requires."""
    return _in_order(sorted(graph.nodes, key=lambda n: n.op != "placeholder"))


def _in_order(nodes: Iterable[Node]) -> Graph:
    """A graph of copies of these nodes."""
    graph = Graph()
    new: dict[Node, Node] = {}
    for node in nodes:
        new[node] = graph.node_copy(node, new.__getitem__)
    return graph


def must_stay(node: Node) -> bool:
    """Whether an unused node must stay: dropping a random draw, say, would shift later random numbers."""
    return node.op in ("placeholder", "output") or is_impure(node)


def _emitter(graph: Graph, of: Node) -> Emit:
    def emit(target: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(target, OpOverload):  # arithmetic on sizes
            node = apply(graph, target, *args)
        else:
            node = graph.call_function(target, args, kwargs)
        if not isinstance(node, Node):
            return node
        node.meta |= origin(of)
        values = pytree.tree_map_only(Node, lambda n: n.meta["val"], (args, kwargs))
        with in_fake_mode((values, of.meta.get("val"))):
            node.meta["val"] = target(*values[0], **values[1])
        return node

    return emit


def sizes_of(emit: Emit, tensor: Node) -> list[Any]:
    """The sizes of a tensor, as numbers where they are known and as nodes where they are symbolic."""
    return [
        emit(torch.ops.aten.sym_size.int, tensor, d) if isinstance(size, torch.SymInt) else size
        for d, size in enumerate(tensor.meta["val"].shape)
    ]


def scalar(emit: Emit, number: float, like: Node) -> Node:
    """A 0-dim tensor of the dtype, and on the device, of ``like``."""
    value = like.meta["val"]
    return emit(torch.ops.aten.full.default, [], number, dtype=value.dtype, device=value.device)


def product(emit: Emit, sizes: list[Any]) -> Any:
    """The product of sizes."""
    number = math.prod(size for size in sizes if not isinstance(size, Node))
    factors = [size for size in sizes if isinstance(size, Node)] + [number] * (number != 1)
    return reduce(partial(emit, operator.mul), factors) if factors else 1
