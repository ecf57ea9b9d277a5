"""One captured graph, from its nodes to something that runs: normalise, propagate, schedule, form loops, lower."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from . import facts
from .lowering import lower
from .operands import is_size
from .options import Settings
from .passes import PIPELINE, form_loops
from .placement import Shard
from .propagate import propagate, shape_of
from .runner import Runner
from .sizes import Batch, expression
from .stages import schedule


def compile_piece(gm: GraphModule, road: str, symbols: Iterable[sympy.Symbol], settings: Settings) -> Callable:
    """A boxed callable that computes what ``gm`` computes, micro-batch by micro-batch.

    Args:
        gm: a functional ATen graph with fake values.
        road: how the graph came in, for the report.
        symbols: the batch's symbols. A graph in which none of them occurs runs as it is.
        settings: read at each call for the number of micro-batches.
    """
    batch = batch_of(gm, symbols)
    if batch is None:
        return as_it_is(gm)
    for rewrite in PIPELINE:
        gm = rewrite(gm, batch)
    known = propagate(gm.graph, batch)
    plan = schedule(gm.graph, known)
    program = form_loops(gm, plan)
    report = facts.plan_facts(road, plan, program)
    return Runner(lower(program, settings), gm, plan, report, settings)


def batch_of(gm: GraphModule, symbols: Iterable[sympy.Symbol]) -> Batch | None:
    """The batch of a graph, if it occurs in a size of an input."""
    sizes = [s for n in gm.graph.nodes for s in _sizes(n)]
    bound = {s for n in gm.graph.find_nodes(op="placeholder") for size in _sizes(n) for s in _symbols(size)}
    present = bound & set(symbols)
    return Batch.of(present, sizes) if present else None


def _sizes(node: Node) -> list:
    if is_size(node):
        value = node.meta["val"]
        return [expression(value)] if isinstance(value, torch.SymInt) else []
    return list(shape_of(node) or ())


def _symbols(size: object) -> set[sympy.Symbol]:
    return size.free_symbols if isinstance(size, sympy.Expr) else set()


def as_it_is(gm: GraphModule) -> Callable:
    """A graph without a batch: clipping, an optimizer, a forward on parameters alone."""

    def run(arguments: list) -> Any:
        given = list(arguments)
        arguments.clear()
        return gm(*given)

    run._boxed_call = True
    return run


__all__ = ["Shard", "as_it_is", "batch_of", "compile_piece"]
