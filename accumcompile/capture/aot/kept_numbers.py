"""``self.average = 0.9 * self.average + 0.1 * loss.item()``: numbers that Python keeps are computed beside the graph.

Dynamo returns the new number from its graph, as a tensor. AOTAutograd traces floats as tensors where one of a few
operators reads them, and elsewhere as constants: the step would be captured again for each value. So the graph returns
what the number is computed of, and it is computed after the graph has run, as Python does.

    item = average.item(); kept = scalar_tensor(0.9 * item);   return (loss, kept)
    read = average.detach().clone();                           return (loss, read)    and then kept, of read

Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._sympy.symbol import SymT, symbol_is_type

from ...ir.names import USERS_NAME, users_name_of
from ...ir.operands import ancestors, outputs
from ...passes.rewriting import copied
from .detaching import detach

NUMBER = (torch.SymFloat, torch.SymInt, torch.SymBool)
FLOATS = (SymT.FLOAT, SymT.UNBACKED_FLOAT)


@dataclass(frozen=True)
class KeptNumbers:
    """The results at ``positions``, which ``compute`` makes of what the graph returns last, ``reads`` values."""

    positions: tuple[int, ...]
    compute: GraphModule
    reads: int


def beside(gm: GraphModule) -> tuple[GraphModule, KeptNumbers | None]:
    """Dynamo's graph without the floats that it returns, and how these are computed of what it returns instead."""
    positions = tuple(i for i, result in enumerate(outputs(gm)) if _is_of_floats(result, (SymT.FLOAT,)))
    if not positions:
        return gm, None
    gm = copied(gm)
    results = outputs(gm)
    kept = [results[i] for i in positions]
    moved = {*kept, *ancestors(*kept, counts=lambda source: _is_of_floats(source, FLOATS))}
    numbers, reads = Graph(), []
    new: dict[Node, Node] = {}
    for node in [n for n in gm.graph.nodes if n in moved]:
        for read in (n for n in node.all_input_nodes if n not in moved and n not in new):
            reads.append(_value_now(gm, read, node))
            new[read] = numbers.placeholder(read.name)
        new[node] = numbers.node_copy(node, new.__getitem__)
    numbers.output(tuple(new[result] for result in kept))
    gm.graph.output_node().args = (tuple(r for i, r in enumerate(results) if i not in positions) + tuple(reads),)
    for node in [n for n in reversed(gm.graph.nodes) if n in moved]:
        if not node.users:
            gm.graph.erase_node(node)
    gm.recompile()
    return gm, KeptNumbers(positions, GraphModule(gm, numbers), len(reads))


def keeping(run: Callable[..., Any], kept: KeptNumbers | None) -> Callable[..., Any]:
    """``run``, with the numbers in their places among its results."""
    if kept is None:
        return run

    def runs_keeping(*inputs: Any) -> list[Any]:
        results = list(run(*inputs))
        first = len(results) - kept.reads
        results, reads = results[:first], results[first:]
        for position, number in zip(kept.positions, kept.compute(*reads), strict=True):
            results.insert(position, number)
        return results

    return runs_keeping


def _is_of_floats(value: Any, kinds: tuple[SymT, ...]) -> bool:
    """Whether a value is computed, and a number that depends on floats, or Dynamo's tensor of one."""
    if not isinstance(value, Node) or value.op == "placeholder":
        return False
    if value.target is torch.scalar_tensor:
        return _is_of_floats(value.args[0], kinds)
    number = value.meta.get("example_value")
    return isinstance(number, NUMBER) and any(symbol_is_type(s, kinds) for s in number.node.expr.free_symbols)


def _value_now(gm: GraphModule, read: Node, before: Node) -> Node:
    """What a number is computed of: a copy of a tensor, which the graph may change later."""
    if not isinstance(read.meta.get("example_value"), torch.Tensor):
        return read
    value = detach(gm, read, before)
    with gm.graph.inserting_before(before):
        now = gm.graph.call_method("clone", (value,))
    now.meta |= {"example_value": value.meta["example_value"].clone(), USERS_NAME: users_name_of(read)}
    return now
