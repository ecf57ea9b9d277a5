"""Where an output has no gradient, neither have the inputs that only it was computed from.

An output that meets no loss gets the gradient None. AOTAutograd's function takes zeros in its place, and so gives zeros
to parameters that eager leaves at None: weight decay and momentum would then act on them. Here None goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from ..bindings import bindings, number
from ..operands import ancestors, outputs
from ..sizes import expression
from . import aot_api


def undefined_stays(compiled: Callable) -> Callable:
    """``compiled``, a function of AOTAutograd's, whose backward is told which outputs have no gradient."""

    def run(*inputs: Any) -> Any:
        before = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)}
        results = compiled(*inputs)
        for node in aot_api.own_nodes(results, before):
            node.set_materialize_grads(False)
        return results

    return run


def passing_undefined(backward: GraphModule, run: Callable[[list], list]) -> Callable[[list], list]:
    """``run``, the boxed callable made of the graph ``backward``, which may then be given None for a tangent.

    It computes with zeros in its place, and gives None for what depends on no other tangent.
    """
    given = backward.graph.find_nodes(op="placeholder")
    tangents = {node: given.index(node) for node in aot_api.tangents(backward)}
    zeros = {position: _zeros(node.meta["val"]) for node, position in tangents.items()}
    behind = [_behind(output, tangents) for output in outputs(backward)]
    reads = list(bindings(backward))

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


def _behind(output: Any, tangents: Mapping[Node, int]) -> set[int]:
    """Positions of the tangents that an output is computed from."""
    if not isinstance(output, Node):
        return set()
    return {tangents[node] for node in ancestors(output) | {output} if node in tangents}
