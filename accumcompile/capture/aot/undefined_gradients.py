"""If an output has no gradient, the inputs that only it depends on get none either.

An output that no loss depends on gets the gradient None. AOTAutograd's function replaces it by zeros, and so gives
zeros to parameters that eager leaves at None: weight decay and momentum would then act on them. Here None is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from ...ir.binding import number, symbol_reads
from ...ir.operands import ancestors, outputs
from ...ir.sizes import expression
from . import api as aot_api


def undefined_stays(compiled: Callable) -> Callable:
    """``compiled``, made by AOTAutograd, whose backward gets None instead of zeros for an output without a gradient."""

    def run(*inputs: Any) -> Any:
        before = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)}
        results = compiled(*inputs)
        for node in aot_api.own_nodes(results, before):
            node.set_materialize_grads(False)
        return results

    return run


def tangents_reached(forward: GraphModule) -> list[set[int]]:
    """For each output of Dynamo's graph, the positions of the inputs that autograd reaches from it.

    Not the same as what its gradient is computed from: ``torch.autograd.Function`` gives each of its inputs a gradient
    if any of its outputs has one.
    """
    given = {node: i for i, node in enumerate(forward.graph.find_nodes(op="placeholder"))}
    return [{given[node] for node in _differentiated(output) if node in given} for output in outputs(forward)]


def passing_undefined(
    backward: GraphModule, run: Callable[[list], list], reach: Sequence[set[int]]
) -> Callable[[list], list]:
    """``run``, the boxed callable compiled from ``backward``, made to accept None for a tangent.

    It computes with zeros in its place, and returns None for the inputs that autograd reaches from no other tangent.

    Args:
        backward: a backward graph from AOTAutograd.
        run: called with the list of its inputs, which it empties.
        reach: ``tangents_reached`` of the forward that it belongs to.
    """
    given = backward.graph.find_nodes(op="placeholder")
    tangents = {node: given.index(node) for node in aot_api.tangents(backward)}
    zeros = {position: _zeros(node.meta["val"]) for node, position in tangents.items()}
    of = {tangents[node]: output for node, output in aot_api.outputs_of_tangents(backward).items()}
    behind = [
        _behind(gradient, tangents) | _leading_to(source, of, reach)
        for gradient, source in zip(outputs(backward), aot_api.inputs_of_gradients(backward), strict=True)
    ]
    reads = symbol_reads(backward.graph.find_nodes(op="placeholder"))

    def boxed(arguments: list) -> list:
        missing = {position for position in zeros if arguments[position] is None}
        if missing and len(missing) == len(zeros):
            arguments.clear()
            return [None] * len(behind)
        sizes = {symbol: read(arguments) for symbol, read in reads} if missing else {}
        for position in missing:
            arguments[position] = zeros[position](sizes)
        return [None if b and b <= missing else g for b, g in zip(behind, run(arguments), strict=True)]

    passing: Any = boxed
    passing._boxed_call = True
    return passing


def _zeros(value: torch.Tensor) -> Callable[[Mapping[sympy.Symbol, int]], torch.Tensor]:
    """A function from sizes to zeros with the traced layout of ``value``."""
    shape, strides = (tuple(expression(s) for s in each) for each in (value.shape, value.stride()))
    dtype, device = value.dtype, value.device

    def make(sizes: Mapping[sympy.Symbol, int]) -> torch.Tensor:
        here = (tuple(number(s, sizes) for s in each) for each in (shape, strides))
        return torch.empty_strided(*here, dtype=dtype, device=device).zero_()

    return make


def _differentiated(output: Any) -> set[Node]:
    """The nodes that autograd may reach from a value."""
    nodes: set[Node] = set()
    stack = [output]
    while stack:
        node = stack.pop()
        if isinstance(node, Node) and node not in nodes and _may_require_grad(node):
            nodes.add(node)
            stack += node.all_input_nodes
    return nodes


def _may_require_grad(node: Node) -> bool:
    value = node.meta.get("example_value")
    return value.requires_grad if isinstance(value, torch.Tensor) else True


def _behind(gradient: Any, tangents: Mapping[Node, int]) -> set[int]:
    """Positions of the tangents that a gradient is computed from."""
    if not isinstance(gradient, Node):
        return set()
    return {tangents[node] for node in ancestors(gradient) | {gradient} if node in tangents}


def _leading_to(source: int | None, of: Mapping[int, int | None], reach: Sequence[set[int]]) -> set[int]:
    """Positions of the tangents from which autograd reaches an input, or may; ``of`` gives a tangent's output."""
    return {at for at, output in of.items() if output is None or source is None or source in reach[output]}
