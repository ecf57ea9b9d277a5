"""Sizes as nodes of a graph: what they compute is what the expression says."""

import math
import operator

import pytest
import sympy
import torch
from torch.fx import Graph, GraphModule
from torch.utils._sympy import functions as sizes
from torch.utils._sympy.functions import FloorDiv, Mod

from accumcompile.diagnostics.errors import BuildError
from accumcompile.ir.arithmetic import emit_number

s, t = sympy.symbols("s t", integer=True)


def value(expr, **numbers):
    """The expression, computed by a graph."""
    graph = Graph()
    holders = {name: graph.placeholder(name) for name in numbers}
    graph.output(emit_number(graph, expr, lambda symbol: holders[str(symbol)]))
    return GraphModule(torch.nn.Module(), graph)(**numbers)


@pytest.mark.parametrize(
    "expr",
    [
        2 * s + t - 1,
        s * t / 2,
        FloorDiv(s, 4) + Mod(t, 3),
        sympy.Max(s, t, 4),
        sympy.Piecewise((s, s < 0), (t, sympy.Eq(s, 3)), (7, True)),
        sympy.Piecewise((1, (s < 0) & (t > 2)), (2, (s >= 0) | sympy.Ne(t, 2)), (0, True)),
        sympy.Piecewise((1, sympy.Not(sympy.Eq(s, t), evaluate=False)), (5, True)),
    ],
    ids=str,
)
def test_numbers(expr):
    for numbers in ({"s": 3, "t": 5}, {"s": -4, "t": 2}, {"s": 8, "t": 8}):
        assert value(expr, **numbers) == float(expr.subs({s: numbers["s"], t: numbers["t"]}))


def test_what_has_no_arithmetic_is_an_error_of_ours():
    with pytest.raises(BuildError, match="no arithmetic for sin"):
        value(sympy.sin(s), s=1)


def test_every_function_of_a_number_that_torch_names_is_known():
    """``math.log(len(x))`` and its kin, and rounding."""
    for name in (name for name in vars(sizes) if name.startswith("OpaqueUnaryFn_")):
        function = getattr(math, name.removeprefix("OpaqueUnaryFn_"))
        given = 0.5 if "a" in name else 2.0  # an arc is of numbers up to one
        given = 2.0 if name.endswith("tan") or "asinh" in name else given
        assert value(vars(sizes)[name](s), s=given) == function(given)
    assert value(sizes.RoundToInt(s / 2), s=5) == 2
    assert value(sizes.TruncToFloat(s / 2), s=5) == 2


def test_a_part_that_stands_in_a_size_twice_is_computed_once():
    graph = Graph()
    holder = graph.placeholder("s")
    part = FloorDiv(s, 2)
    emit_number(graph, part * Mod(part, 3), lambda symbol: holder)
    assert sum(node.target is operator.floordiv for node in graph.nodes) == 1
