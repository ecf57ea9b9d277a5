"""Symbolic sizes as nodes of a graph: plain Python arithmetic on ints and floats."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import sympy
from torch.fx import Graph, Node

from ..diagnostics import errors
from .torch_api import sizes

Number: TypeAlias = Node | int | float


def emit_number(graph: Graph, expr: sympy.Expr, symbol: Callable[[sympy.Symbol], Number]) -> Number:
    """A node (or a plain number) whose value is ``expr``; ``symbol`` gives the node of each free symbol."""
    numbers: dict[sympy.Basic, Number] = {}
    stack: list[sympy.Basic] = [expr]
    while stack:
        arguments = _arguments(stack[-1])
        missing = [a for a in arguments if a not in numbers]
        stack += reversed(missing)
        if not missing:
            done = stack.pop()
            numbers[done] = _emit(graph, done, [numbers[a] for a in arguments], symbol)
    return numbers[expr]


def _arguments(expr: sympy.Basic) -> tuple[sympy.Basic, ...]:
    """The subexpressions of ``expr``; for a ``Piecewise``, each value followed by its condition."""
    if isinstance(expr, sympy.Piecewise):
        return tuple(a for case in expr.args for a in case.args)
    return () if expr.is_Number else expr.args


def _emit(graph: Graph, expr: sympy.Basic, arguments: list[Number], symbol: Callable[[sympy.Symbol], Number]) -> Number:
    if isinstance(expr, sympy.Symbol):
        return symbol(expr)
    if expr in (sympy.true, sympy.false):
        return bool(expr)
    if expr.is_Integer:
        return int(expr)
    if expr.is_Float:
        return float(expr)
    if expr.is_Rational:
        return expr.p / expr.q
    if isinstance(expr, sympy.Piecewise):
        return apply(graph, first_that_holds, *arguments)
    if isinstance(expr, sympy.Pow) and expr.exp == -1:
        return apply(graph, operator.truediv, 1, arguments[0])
    row: Any = next((target for kind, target in _TABLE.items() if isinstance(expr, kind)), None)
    if row is None:
        raise errors.error(
            "AC901", what=f"no arithmetic for {type(expr).__name__}", why=f"it is part of a size: {expr}"
        )
    if len(arguments) <= 2:
        return apply(graph, row, *arguments)
    return reduce(lambda a, b: apply(graph, row, a, b), arguments)


def apply(graph: Graph, target: Callable, *arguments: Any) -> Any:
    """Apply ``target`` to numbers: evaluated now if all are known, else emitted as a node."""
    if not any(isinstance(a, Node) for a in arguments):
        return target(*arguments)
    return graph.call_function(target, arguments)


def first_that_holds(*cases: Any) -> Any:
    """The first value whose condition holds; ``cases`` alternates values and conditions."""
    return next(value for value, holds in zip(cases[::2], cases[1::2], strict=True) if holds)


_OF_MATH = "OpaqueUnaryFn_"  # prefix of the sympy classes for sqrt, log and so on

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
    sizes.TruncToFloat: math.trunc,
    sizes.RoundToInt: round,
    sizes.RoundDecimal: round,
    sizes.Identity: operator.pos,
    sizes.LShift: operator.lshift,
    sizes.RShift: operator.rshift,
    sizes.BitwiseFn_bitwise_and: operator.and_,
    sizes.BitwiseFn_bitwise_or: operator.or_,
    sizes.BitwiseFn_bitwise_xor: operator.xor,
    sympy.Abs: abs,
    sympy.floor: math.floor,
    sympy.ceiling: math.ceil,
    **{kind: getattr(math, name.removeprefix(_OF_MATH)) for name, kind in vars(sizes).items() if _OF_MATH in name},
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
