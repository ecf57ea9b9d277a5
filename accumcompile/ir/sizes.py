"""Symbolic sizes: how many rows of a dimension belong to one sample of the batch.

Sizes are sympy expressions in the symbols of the captured graph. To compare and divide them the batch symbol is
written as ``unit * u``, where ``unit`` is a multiple of every integer by which the graph divides its batch, so
that ``s // 4`` and ``s / 4`` become the same polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import sympy
import torch

from .divisibility import DIVISIONS, divisors
from .placement import Shard, Size
from .torch_api import CleanDiv, FloorDiv, is_unbacked

ROWS = sympy.Symbol("rows", integer=True, positive=True)
UNIT = sympy.Symbol("batch_unit", integer=True, positive=True)
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def expression(size: Any) -> Size:
    """The sympy expression (or int) behind a size in fx metadata.

    Symbolic numbers of any kind are never evaluated, which would specialise the batch size.
    """
    if isinstance(size, SYMBOLIC):
        expr = size.node.expr
        return int(expr) if isinstance(size, torch.SymInt) and expr.is_number else expr
    return int(size) if not isinstance(size, sympy.Expr) else size


@dataclass(frozen=True)
class Batch:
    """The batch of a graph: its symbol, the symbols declared equal to it, and the unit that makes it divisible.

    ``divides`` says whether an integer divides every batch size; ``unit`` may come from inexact divisions. ``others``
    are numbers of rows that further inputs have: a second batch of another size.
    """

    symbol: sympy.Symbol
    aliases: frozenset[sympy.Symbol] = frozenset()
    unit: int = 1
    divides: Callable[[int], bool] = field(default=lambda by: by == 1, compare=False, repr=False)
    others: AbstractSet[sympy.Symbol] = frozenset()
    _cache: dict = field(default_factory=dict, compare=False, repr=False)
    rounded: dict = field(default_factory=dict, compare=False, repr=False)  # symbol -> the inexact division

    @classmethod
    def of(
        cls,
        symbols: Iterable[sympy.Symbol],
        sizes: Iterable[Size],
        divides: Callable[[int], bool] = lambda by: by == 1,
        others: AbstractSet[sympy.Symbol] = frozenset(),
    ) -> Batch:
        """The batch named by ``symbols``, in a graph whose dimensions have the given ``sizes``."""
        first, *rest = sorted(symbols, key=str)
        unit = math.lcm(1, *(d for size in sizes for d in divisors(size)))
        return cls(first, frozenset(rest), unit, divides, others)

    @property
    def from_data(self) -> AbstractSet[sympy.Symbol]:
        """The data-dependent symbols in the number of rows."""
        return frozenset()

    @cached_property
    def _renaming(self) -> dict:
        return dict.fromkeys((self.symbol, *self.aliases), self.unit * UNIT)

    def polynomial(self, size: Size) -> Size:
        """``size`` with the batch written as unit * u."""
        if not isinstance(size, sympy.Expr):
            return size
        if size not in self._cache:
            self._cache[size] = sympy.cancel(self.divided(size).subs(self._renaming))
        return self._cache[size]

    def divided(self, size: sympy.Expr) -> sympy.Expr:
        """``size`` with exact divisions as fractions, and each inexact one as a new symbol: 2 * (s // 2) is not s."""
        if not self._is_named_in(size) or not size.args:
            return size
        args = [self.divided(arg) for arg in size.args]
        if not isinstance(size, DIVISIONS):
            return size.func(*args)
        if isinstance(size, CleanDiv):
            return args[0] / args[1]
        quotient = self._quotient_and_remainder(*args)
        if quotient is not None:
            return quotient[0] if isinstance(size, FloorDiv) else quotient[1]
        rounded = sympy.Symbol(f"({size})", integer=True)
        self.rounded[rounded] = size
        return rounded

    def _quotient_and_remainder(self, a: sympy.Expr, b: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr] | None:
        """``a // b`` and ``a % b`` if they are the same polynomials for every batch size: (2 s + 1) // 2 is s."""
        constant, rest = sympy.expand(sympy.cancel(a / b)).as_coeff_Add()
        if not constant.is_Rational or not self._is_whole(rest):
            return None
        return rest + sympy.floor(constant), (constant - sympy.floor(constant)) * b

    def _is_whole(self, ratio: sympy.Expr) -> bool:
        """Whether a quotient is a whole number for every batch size."""
        numerator, denominator = sympy.fraction(sympy.cancel(ratio))
        if not denominator.is_Integer or not self.divides(int(denominator)):
            return False
        samples = dict.fromkeys((self.symbol, *self.aliases), denominator * UNIT)
        return _is_integral(sympy.expand(numerator.subs(samples) / denominator))

    def unified(self, size: Size) -> Size:
        """``size`` with the batch symbol in place of its aliases."""
        return size.xreplace(dict.fromkeys(self.aliases, self.symbol)) if isinstance(size, sympy.Basic) else size

    def in_size(self, size: Size) -> bool:
        """Whether ``size`` depends on the batch: ``s - s // 3 * 3`` does not where 3 divides every batch."""
        if not self._is_named_in(size):
            return False
        return not sympy.sympify(self.polynomial(size)).free_symbols.isdisjoint({UNIT, *self.rounded})

    def is_of_rows(self, size: Size) -> bool:
        """Whether loops may run over a dimension of ``size``: it depends on a batch, or on data."""
        return self.in_size(size) or (isinstance(size, sympy.Expr) and any(map(self.names_rows, size.free_symbols)))

    def names_rows(self, symbol: sympy.Symbol) -> bool:
        """Whether a symbol is a number of rows that has nothing to do with the batch."""
        return symbol in self.others or is_unbacked(symbol)

    def _is_named_in(self, size: Size) -> bool:
        return isinstance(size, sympy.Expr) and not size.free_symbols.isdisjoint({self.symbol, *self.aliases})

    def equal(self, a: Size, b: Size) -> bool:
        """Whether two sizes are the same number for every batch size."""
        return a == b or sympy.cancel(self.polynomial(a) - self.polynomial(b)) == 0

    def quotient(self, a: Size, b: Size) -> Size | None:
        """a / b where b divides a for every batch size, else None."""
        if b == 0:
            return None
        ratio = sympy.cancel(sympy.sympify(self.polynomial(a)) / self.polynomial(b))
        ratio = sympy.cancel(ratio.xreplace({UNIT: self.symbol / sympy.Integer(self.unit)}))
        if not self._is_whole(ratio):
            return None
        return int(ratio) if ratio.is_number else _without_fractions(ratio).xreplace(self.rounded)

    def ratio(self, a: Size, b: Size) -> Fraction | None:
        """a / b where it is the same number for every batch size, else None."""
        ratio = sympy.cancel(sympy.sympify(self.polynomial(a)) / self.polynomial(b))
        return Fraction(int(ratio.p), int(ratio.q)) if ratio.is_Rational else None

    def per_sample(self, size: Size, outer: Size = 1) -> sympy.Expr | None:
        """Rows of a dimension (outer rest) that one sample owns at each index of ``outer``; None if it owns none.

        A fraction 1/4 means that four samples share a row: a granule of four, which must divide every batch size.
        """
        if not self.in_size(size):
            return None
        ratio = sympy.cancel(sympy.sympify(self.polynomial(size)) / (self.polynomial(outer) * self.unit * UNIT))
        shared = sympy.fraction(sympy.together(ratio))[1]
        return ratio.xreplace(self.rounded) if shared.is_Integer and self.divides(int(shared)) else None

    def granule(self, size: Size, outer: Size = 1) -> int:
        """The least number of samples that must stay together for a dimension of ``size``."""
        ratio = self.per_sample(size, outer)
        return _counted(ratio)[1] if ratio is not None else 1

    def owned(self, size: Size, outer: Size = 1) -> tuple[sympy.Expr, int]:
        """Rows at each index of ``outer``, and how many samples own them: (1, 4) for s // 4. ValueError if none do."""
        return _counted(self._rows_of_one(size, outer))

    def local(self, size: Size, outer: Size = 1) -> sympy.Expr:
        """The size of a sharded dimension in a micro-batch of ``ROWS`` samples; ValueError if no sample owns rows."""
        rows, samples = _counted(self._rows_of_one(size, outer) * outer)
        return FloorDiv(rows * ROWS, samples) if samples != 1 else rows * ROWS

    def _rows_of_one(self, size: Size, outer: Size) -> sympy.Expr:
        ratio = self.per_sample(size, outer)
        if ratio is None:
            raise ValueError(f"no sample owns rows of {size}")
        return ratio.subs(UNIT, self.symbol / sympy.Integer(self.unit))

    def local_shape(self, shape: Iterable[Size], placement: object) -> tuple[Size, ...]:
        """The shape that a value of full ``shape`` has within one micro-batch."""
        sizes = tuple(self.unified(s) for s in shape)
        if not isinstance(placement, Shard):
            return sizes
        dim = placement.dim
        return (*sizes[:dim], self.local(sizes[dim], placement.outer), *sizes[dim + 1 :])


NO_BATCH = Batch(sympy.Symbol("no_batch", integer=True, positive=True))  # for a graph without a batch


def _counted(ratio: sympy.Expr) -> tuple[sympy.Expr, int]:
    """Rows per sample as a fraction in lowest terms: (rows, samples)."""
    rows, samples = sympy.fraction(sympy.together(sympy.cancel(ratio)))
    return rows, int(samples)


def _without_fractions(whole: sympy.Expr) -> sympy.Expr:
    """A whole number written without fractions: s // 2 and not s / 2."""
    numerator, denominator = sympy.fraction(sympy.together(whole))
    return numerator if denominator == 1 else FloorDiv(numerator, denominator)


def _is_integral(polynomial: sympy.Expr) -> bool:
    """Whether all coefficients are whole numbers."""
    return all(c.is_Integer for c in polynomial.as_coefficients_dict().values())


def unfolded(shape: tuple[Size, ...], placement: Shard) -> tuple[Size, ...]:
    """A shape with its sharded dimension split into (outer, rest)."""
    dim, outer = placement.dim, placement.outer
    rest = sympy.cancel(sympy.sympify(shape[dim]) / outer)
    rest = rest if sympy.fraction(sympy.together(rest))[1] == 1 else FloorDiv(sympy.sympify(shape[dim]), outer)
    return (*shape[:dim], outer, rest, *shape[dim + 1 :])
