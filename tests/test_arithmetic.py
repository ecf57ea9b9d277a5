"""Sizes as nodes of a graph: what they compute is what the expression says."""

import pytest
import sympy
import torch
from torch.fx import Graph, GraphModule
from torch.utils._sympy.functions import FloorDiv, Mod

from accumcompile.arithmetic import emit_number

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


def test_what_has_no_arithmetic_is_an_error():
    with pytest.raises(LookupError, match="sin"):
        value(sympy.sin(s), s=1)
