"""Symbolic sizes as nodes of a graph: plain Python arithmetic on ints and floats."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import sympy
from torch.fx import Graph, Node
from torch.utils._sympy import functions as sizes  # checked on 2.11 to 2.15

Number: TypeAlias = Node | int | float


def emit_number(graph: Graph, expr: sympy.Expr, symbol: Callable[[sympy.Symbol], Number]) -> Number:
    """A node (or a plain number) whose value is ``expr``; ``symbol`` gives the node of each free symbol."""
    if isinstance(expr, sympy.Symbol):
        return symbol(expr)
    if expr in (sympy.true, sympy.false):
        return bool(expr)
    if isinstance(expr, sympy.Piecewise):
        return _call(graph, first_that_holds, [emit_number(graph, a, symbol) for case in expr.args for a in case.args])
    if expr.is_Integer:
        return int(expr)
    if expr.is_Float:
        return float(expr)
    if expr.is_Rational:
        return expr.p / expr.q
    if isinstance(expr, sympy.Pow) and expr.exp == -1:
        return _call(graph, operator.truediv, [1, emit_number(graph, expr.base, symbol)])
    row = next((target for kind, target in _TABLE.items() if isinstance(expr, kind)), None)
    if row is None:
        raise LookupError(f"no arithmetic for {type(expr).__name__} in {expr}")
    arguments = [emit_number(graph, a, symbol) for a in expr.args]
    if len(arguments) <= 2:
        return _call(graph, row, arguments)
    return reduce(lambda a, b: _call(graph, row, [a, b]), arguments)


def first_that_holds(*cases: Any) -> Any:
    """The value, of value, condition, value, condition and so on, whose condition is the first to hold."""
    return next(value for value, holds in zip(cases[::2], cases[1::2], strict=True) if holds)


def _call(graph: Graph, target: Callable, arguments: list[Any]) -> Number:
    if not any(isinstance(a, Node) for a in arguments):
        return target(*arguments)
    return graph.call_function(target, tuple(arguments))


_TABLE: dict[type, Callable] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Pow: operator.pow,
    sizes.FloorDiv: operator.floordiv,
    sizes.CleanDiv: operator.floordiv,
    sizes.Mod: operator.mod,
    sizes.PythonMod: operator.mod,
    sizes.IntTrueDiv: operator.truediv,
    sizes.FloatTrueDiv: operator.truediv,
    sizes.PowByNatural: operator.pow,
    sizes.FloatPow: operator.pow,
    sizes.ToFloat: float,
    sizes.TruncToInt: int,
    sizes.CeilToInt: math.ceil,
    sizes.FloorToInt: math.floor,
    sympy.Max: max,
    sympy.Min: min,
    sizes.Max: max,
    sizes.Min: min,
    sizes.OpaqueUnaryFn_sqrt: math.sqrt,
    sympy.Eq: operator.eq,
    sympy.Ne: operator.ne,
    sympy.Lt: operator.lt,
    sympy.Le: operator.le,
    sympy.Gt: operator.gt,
    sympy.Ge: operator.ge,
    sympy.And: operator.and_,
    sympy.Or: operator.or_,
    sympy.Not: operator.not_,
}
