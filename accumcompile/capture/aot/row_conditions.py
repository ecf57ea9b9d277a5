"""Conditions that decide the rows of a part of the batch: evaluated for the current batch, and so guarded.

If 2 divides the batch, ``x[::2]`` and ``x[torch.arange(0, n, 2)]`` are split in pairs of samples, ``x[:n // 2]`` in two
blocks, and ``x[:n // 2 * 2]`` is all of ``x``; otherwise all are gathered. Dynamo captures the step once for each case.
"""

from __future__ import annotations

from collections.abc import Iterable

import sympy
import torch
from torch.fx import GraphModule, Node

from ...ir.divisibility import divisors
from ...ir.operands import data_symbols, input_sizes
from ...ir.sizes import expression

STEPS = {torch.ops.aten.slice.Tensor: 4, torch.ops.aten.slice_scatter.default: 5}  # the position of the step
COUNTED = torch.ops.prims.iota.default


def ask_divided(gm: GraphModule, symbols: Iterable[sympy.Symbol]) -> None:
    """Guard, for each part of the batch, on whether it leaves nothing out, or is a regular part."""
    batch = frozenset(symbols)
    for op, position in STEPS.items():
        for node in gm.graph.find_nodes(op="call_function", target=op):
            _ask(node, position, batch)
    lengths = [
        expression(node.meta["val"].shape[0]) for node in gm.graph.find_nodes(op="call_function", target=COUNTED)
    ]
    counted = {by for length in lengths if not data_symbols(length) for by in _divisors(length, batch)}
    for size in input_sizes(gm) if counted else ():
        if size.node.expr in batch:
            _ask_each(size, counted)


def _divisors(size: object, batch: frozenset[sympy.Symbol]) -> set[int]:
    """By what a size that depends on the batch is divided."""
    return set(divisors(size)) if isinstance(size, sympy.Expr) and size.free_symbols & batch else set()


def _ask_each(size: torch.SymInt, divided_by: set[int]) -> None:
    for by in sorted(divided_by):
        bool(size % by == 0)


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
    elif (divided_by := _divisors(expression(rows), batch)) and not bool(rows == size):
        _ask_each(size, divided_by)
