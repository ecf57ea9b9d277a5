"""Conditions that decide the rows of a slice along the batch: evaluated for the current batch, and so guarded.

If 2 divides the batch, ``x[::2]`` is split in pairs of samples, ``x[:n // 2]`` in two blocks, and ``x[:n // 2 * 2]`` is
all of ``x``; otherwise all are gathered. Dynamo captures the step once for each case.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy
import torch
from torch.fx import Graph, Node

from ...ir.divisibility import divisors
from ...ir.operands import data_symbols
from ...ir.sizes import expression

STEPS = {torch.ops.aten.slice.Tensor: 4, torch.ops.aten.slice_scatter.default: 5}  # the position of the step


def ask_divided(graph: Graph, symbols: Iterable[sympy.Symbol]) -> None:
    """Guard, for each slice along the batch, on whether it leaves nothing out, or is a regular part."""
    batch = frozenset(symbols)
    for op, position in STEPS.items():
        for node in graph.find_nodes(op="call_function", target=op):
            _ask(node, position, batch)


def _ask(node: Node, position: int, batch: frozenset[sympy.Symbol]) -> None:
    arguments = (*node.args, *(0, None, None, 1)[len(node.args) - position + 3 :])
    dim, step = arguments[position - 3], arguments[position]
    part = node.meta["val"] if position == 4 else node.args[1].meta["val"]
    size, rows = node.args[0].meta["val"].shape[dim], part.shape[dim]
    if not isinstance(size, torch.SymInt) or not size.node.expr.free_symbols & batch or not isinstance(step, int):
        return
    if data_symbols(size) or data_symbols(rows):
        return
    if step > 1:
        bool(size % step == 0)
    elif (parts := set(divisors(expression(rows)))) and not bool(rows == size):
        all(bool(size % part == 0) for part in parts)
