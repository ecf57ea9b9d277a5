"""Where an output has no gradient, neither have the inputs that only it was computed from.

An output that meets no loss gets the gradient None. AOTAutograd's function takes zeros in its place, and so gives zeros
to parameters that eager leaves at None: weight decay and momentum would then act on them. Here None goes through.
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
    """``compiled``, a function of AOTAutograd's, whose backward is told which outputs have no gradient."""

    def run(*inputs: Any) -> Any:
        before = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)}
        results = compiled(*inputs)
        for node in aot_api.own_nodes(results, before):
            node.set_materialize_grads(False)
        return results

    return run


def tangents_reached(forward: GraphModule) -> list[set[int]]:
    """For each output of Dynamo's graph, the positions of the inputs that autograd comes to from it.

    Not the same as what its gradient is computed from: ``torch.autograd.Function`` gives each of its inputs a gradient
    if any of its outputs has one.
    """
    given = {node: i for i, node in enumerate(forward.graph.find_nodes(op="placeholder"))}
    return [{given[node] for node in _differentiated(output) if node in given} for output in outputs(forward)]


def passing_undefined(
    backward: GraphModule, run: Callable[[list], list], reach: Sequence[set[int]]
) -> Callable[[list], list]:
    """``run``, the boxed callable made of the graph ``backward``, which may then be given None for a tangent.

    It computes with zeros in its place, and gives None for what autograd comes to from no other tangent.

    Args:
        backward: a graph of AOTAutograd's.
        run: called with the list of its inputs, which it empties.
        reach: of the forward that it belongs to, as ``tangents_reached`` gives it.
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
    """Zeros that look as ``value`` was traced, for given sizes."""
    shape, strides = (tuple(expression(s) for s in each) for each in (value.shape, value.stride()))
    dtype, device = value.dtype, value.device

    def make(sizes: Mapping[sympy.Symbol, int]) -> torch.Tensor:
        here = (tuple(number(s, sizes) for s in each) for each in (shape, strides))
        return torch.empty_strided(*here, dtype=dtype, device=device).zero_()

    return make


def _differentiated(output: Any) -> set[Node]:
    """What autograd comes to from a value."""
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
    """Positions of the tangents, ``of`` these outputs, from which autograd comes, or may come, to an input."""
    return {at for at, output in of.items() if output is None or source is None or source in reach[output]}
