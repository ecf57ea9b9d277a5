"""Placements of values along the time axis, the sequence of micro-batches.

The three placements are DTensor's, with a mesh axis replaced by time. A value's placement says how the full
batch's value is assembled from the values of the micro-batches.

A loop may also run over the rows of a derived dimension: a number of rows that data decides (``x[mask]``), or a part
of the batch (``x[: len(x) // 4 * 4]``). ``over`` names it by its symbol; None is the batch itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import sympy

Size: TypeAlias = int | sympy.Expr


@dataclass(frozen=True, slots=True)
class Replicate:
    """The value is the same in every micro-batch, and equals the full batch's."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Shard:
    """The full value is the micro-batches' values concatenated along a factor of ``dim``.

    The dimension is read as ``(outer rest)``, as einops writes it: the micro-batches are concatenated along
    ``rest``, whose size is proportional to the batch. ``outer`` is 1 for a plain batch dimension, and T for
    the dimension that ``x.flatten()`` makes from ``[T, B]``.
    """

    dim: int
    outer: Size = 1
    over: sympy.Symbol | None = None

    def __str__(self) -> str:
        outer = "" if self.outer == 1 else f", outer={self.outer}"
        return f"S({self.dim}{outer}{_over(self.over)})"


@dataclass(frozen=True, slots=True)
class Partial:
    """The full value is the micro-batches' values reduced by ``op``: a key of ``accumcompile.ir.carry.REDUCTIONS``."""

    op: str = "sum"
    over: sympy.Symbol | None = None

    def __str__(self) -> str:
        return f"P({self.op}{_over(self.over)})"


def _over(symbol: sympy.Symbol | None) -> str:
    return "" if symbol is None else f", over {symbol}"


Placement = Replicate | Shard | Partial


def over_of(placement: Placement) -> sympy.Symbol | None:
    """The derived rows that a placement is about; None for the batch, and for R."""
    return None if isinstance(placement, Replicate) else placement.over


R = Replicate()
S = Shard
P = Partial


class Layout(NamedTuple):
    """A value's placement along each axis. Time is the first."""

    time: Placement
