"""Rows other than the batch's, over which a loop may run."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import sympy

from .placement import Size
from .sizes import NO_BATCH, UNIT, Batch
from .torch_api import is_unbacked


@dataclass(frozen=True)
class Derived(Batch):
    """A number of rows other than the batch's, over which a loop may run: one that data decides, ``s // 4``, ``s + t``.

    ``symbol`` names it, ``count`` is its size in the symbols of the graph, and ``base`` the same as the batch
    ``within`` divides it.
    """

    count: Size = 0
    base: sympy.Expr = sympy.S.One
    within: Batch = NO_BATCH

    @classmethod
    def all_in(cls, size: Size, within: Batch) -> list[Derived]:
        """Those that occur in a size of a graph whose batch is ``within``."""
        if not isinstance(size, sympy.Expr):
            return []
        factors = sympy.Mul.make_args(sympy.factor(within.divided(within.unified(size))))
        return [cls._of(factor, within) for factor in factors if cls._counts_rows(factor, within)]

    @classmethod
    def _counts_rows(cls, factor: sympy.Expr, within: Batch) -> bool:
        """Whether a factor of a size is a number of rows, other than the batch's."""
        rows = {s for s in factor.free_symbols if s in within.rounded or s == within.symbol or within.names_rows(s)}
        return bool(rows) and factor != within.symbol and (factor.is_Symbol or factor.is_Add)

    @classmethod
    def _of(cls, base: sympy.Expr, within: Batch) -> Derived:
        symbol = base if base.is_Symbol else sympy.Symbol(f"({base})", integer=True)
        count = base.xreplace(within.rounded)
        return cls(symbol, count=count, base=base, within=within, rounded=within.rounded)

    @property
    def from_data(self) -> AbstractSet[sympy.Symbol]:
        """The data-dependent symbols in the number of rows."""
        return {symbol for symbol in self.base.free_symbols if is_unbacked(symbol)}

    def polynomial(self, size: Size) -> Size:
        """``size`` with the number of rows as u, if it is a multiple of that."""
        if not isinstance(size, sympy.Expr):
            return size
        divided = self.divided(size)
        if self.base.is_Symbol:
            return sympy.cancel(divided.subs({self.base: UNIT}))
        ratio = sympy.cancel(divided / self.base)
        return ratio * UNIT if ratio.free_symbols.isdisjoint(self.base.free_symbols) else divided

    def divided(self, size: sympy.Expr) -> sympy.Expr:
        """As in the batch."""
        return self.within.divided(self.unified(size))

    def unified(self, size: Size) -> Size:
        """``size`` with the batch symbol in place of its aliases."""
        return self.within.unified(size)

    def in_size(self, size: Size) -> bool:
        """Whether ``size`` is a multiple of the number of rows."""
        return isinstance(size, sympy.Expr) and UNIT in sympy.sympify(self.polynomial(size)).free_symbols

    def quotient(self, a: Size, b: Size) -> Size | None:
        """a / b where b divides a for every number of rows, else None."""
        return self._written(super().quotient(a, b))

    def _rows_of_one(self, size: Size, outer: Size) -> sympy.Expr:
        return self._written(super()._rows_of_one(size, outer))

    def _written(self, size: Any) -> Any:
        """A size in the symbols of the graph."""
        return size.xreplace({self.symbol: self.count}) if isinstance(size, sympy.Basic) else size
