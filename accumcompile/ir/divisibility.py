"""Which integers divide every batch size that a graph serves, derived from the trace's guards on that size.

A guard such as ``3 * s == 6 * (s // 2)`` is linear in ``s`` within each residue class modulo its period, which follows
from its divisors: within a class it holds everywhere, nowhere, or for one ``s``. So two values decide a whole class,
and a prime power divides every batch size if some guard holds nowhere in the classes of non-multiples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache

import sympy
import torch

from .torch_api import FloorDiv, Mod, PythonMod

DIVISIONS = (FloorDiv, Mod, PythonMod)
LONGEST = 1000  # the longest period that is searched


def divisible(sizes: Iterable[torch.SymInt]) -> Callable[[int], bool]:
    """A test of whether an integer divides every batch size, by the guards on ``sizes``, its symbols."""
    checked = [(size.node.expr, check) for size in sizes for check in _checks(size)]

    @cache
    def divides(by: int) -> bool:
        powers = (prime**times for prime, times in sympy.factorint(by).items())
        return all(any(_implies(check, symbol, power) for symbol, check in checked) for power in powers)

    return divides


def divisors(expr: object) -> Iterable[int]:
    """Every integer divisor that occurs in ``expr``."""
    if isinstance(expr, sympy.Basic):
        for node in sympy.preorder_traversal(expr):
            if isinstance(node, DIVISIONS) and node.args[1].is_Integer:
                yield int(node.args[1])
            elif node.is_Rational and not node.is_Integer:
                yield int(node.q)


def _checks(size: torch.SymInt) -> Iterable[sympy.Expr]:
    """The expressions with a period that the trace's guards say are zero."""
    symbol = size.node.expr
    guards = (guard.expr for guard in size.node.shape_env.guards)
    equal = [g for g in guards if isinstance(g, sympy.Eq) and g.free_symbols == {symbol}]
    constants = {g.lhs: g.rhs for g in equal if g.rhs.is_Integer}  # such as s // (s // 2) == 2, after x.view(s // 2, 2)
    for guard in equal:
        for values in ({}, constants):
            difference = guard.lhs.xreplace(values) - guard.rhs.xreplace(values)
            if _period(difference) is not None:
                yield difference


def _period(expr: sympy.Expr) -> int | None:
    """The modulus in whose residue classes an expression of one symbol is linear; None if there is none."""
    if expr.is_Symbol or expr.is_Integer:
        return 1
    if isinstance(expr, DIVISIONS):
        inner, by = _period(expr.args[0]), expr.args[1]
        return inner * int(by) if inner and by.is_Integer and by > 0 else None
    if not isinstance(expr, (sympy.Add, sympy.Mul)):
        return None
    if isinstance(expr, sympy.Mul) and sum(not a.is_Integer for a in expr.args) > 1:
        return None
    periods = [_period(a) for a in expr.args]
    return math.lcm(*(p for p in periods if p)) if all(periods) else None


def _implies(check: sympy.Expr, symbol: sympy.Symbol, by: int) -> bool:
    """Whether multiples of ``by`` are the only positive numbers for which ``check`` is zero."""
    period = math.lcm(by, _period(check) or 1)
    return period <= LONGEST and all(_has_no_zero(check, symbol, r, period) for r in range(period) if r % by)


def _has_no_zero(check: sympy.Expr, symbol: sympy.Symbol, residue: int, period: int) -> bool:
    """Whether ``check``, which is linear within a residue class, has no zero in this one."""
    at = residue + period
    first, second = (int(check.xreplace({symbol: sympy.Integer(s)})) for s in (at, at + period))
    if first == second:
        return first != 0
    zero = at - Fraction(first * period, second - first)
    return zero <= 0 or zero.denominator != 1 or zero % period != residue
