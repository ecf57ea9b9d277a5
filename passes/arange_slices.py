"""Indexing by evenly spaced rows of the batch, rewritten as a slice.

Before::

    second = aten.add.Tensor(iota, s0)                        # iota: 0 .. s0 - 1, x: [2 * s0, d], y: [s0]
    index = aten.index.Tensor(x, [second, y])

After::

    part = aten.slice.Tensor(x, 0, s0, 2 * s0)
    index = aten.index.Tensor(part, [iota, y])                # or ``part``, where there is no other index

``x[torch.arange(n) + n]`` picks the rows that ``x[n:]`` does, and so does what is put or added there. An index in
general could pick any row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.operands import shape_of
from accumcompile.ir.placement import Size
from accumcompile.ir.sizes import Batch
from accumcompile.rules.slices import value_of

from .manager import Context
from .rewriting import Emit, rewrite, sizes_of

aten, prims = torch.ops.aten, torch.ops.prims


def arange_slices(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite indexing by evenly spaced rows of the batch as slices and slice scatters."""
    return rewrite(gm, {op: _by_slice(row, context.batch) for op, row in _TABLE.items()})


@dataclass(frozen=True)
class _Rows:
    """The rows ``start, start + step, ...`` of a dimension, ``length`` of them: numbers, or nodes that hold one."""

    start: Any
    step: int
    length: Any

    def end(self, emit: Emit) -> Any:
        """One past the last row."""
        before = emit(operator.mul, emit(operator.sub, self.length, 1), self.step)
        return emit(operator.add, emit(operator.add, self.start, before), 1)

    def are_within(self, size: Size, batch: Batch) -> bool:
        """Whether the rows are part of a dimension of this size, for every batch, but not all of it in order."""
        start, length = value_of(self.start) or 0, value_of(self.length) or 0
        last = start + self.step * (length - 1)
        inside = _is_natural(start, batch) and _is_natural(size - 1 - last, batch)
        return inside and not (start == 0 and self.step == 1 and batch.equal(length, size))


def _is_natural(size: Size, batch: Batch) -> bool:
    """Whether a size is proven not to be negative: it grows with all of its symbols, and is not where each is 1."""
    grown = sympy.expand(batch.polynomial(sympy.sympify(size)))
    terms = sympy.Add.make_args(grown.as_coeff_Add()[1])
    least = grown.subs(dict.fromkeys(grown.free_symbols, 1))
    return all(term.is_nonnegative for term in terms) and bool(least >= 0)


def _rows(emit: Emit, index: Any) -> _Rows | None:
    """What an index counts, if it is an ``arange`` times and plus numbers."""
    if not isinstance(index, Node) or index.op != "call_function":
        return None
    if index.target is prims.iota.default:
        start, step = index.kwargs["start"], index.kwargs["step"]
        return _Rows(start, step, index.args[0]) if isinstance(step, int) and step > 0 else None
    row = _KEEPS_SPACING.get(index.target)
    if row is None or len(index.args) != 2 or index.kwargs:
        return None
    rows = _rows(emit, index.args[0])
    return row(emit, rows, index.args[1]) if rows is not None else None


def _moved(emit: Emit, rows: _Rows, by: Any) -> _Rows | None:
    return _Rows(emit(operator.add, rows.start, by), rows.step, rows.length) if _is_number(by) else None


def _spread(emit: Emit, rows: _Rows, by: Any) -> _Rows | None:
    if not isinstance(by, int) or by < 1:
        return None
    return _Rows(emit(operator.mul, rows.start, by), rows.step * by, rows.length)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, Node) and isinstance(value.meta["val"], (int, torch.SymInt)))


_KEEPS_SPACING: dict[Any, Callable] = {aten.add.Tensor: _moved, aten.mul.Tensor: _spread}


@dataclass(frozen=True)
class _Indexed:
    """``x`` indexed along ``dim`` by spaced rows, and along others by ``indices``, which has a plain count there."""

    emit: Emit
    x: Node
    dim: int
    rows: _Rows
    indices: list[Any]

    @property
    def is_alone(self) -> bool:
        """Whether there is no other index."""
        return sum(index is not None for index in self.indices) == 1

    @property
    def bounds(self) -> tuple:
        """The arguments of a slice."""
        return self.dim, self.rows.start, self.rows.end(self.emit), self.rows.step

    def get(self) -> Node:
        """What the indices pick."""
        part = self.emit(aten.slice.Tensor, self.x, *self.bounds)
        return part if self.is_alone else self.emit(aten.index.Tensor, part, self.indices)

    def put(self, values: Node, accumulate: bool = False) -> Node:
        """``x`` with the values put, or added, where the indices point."""
        before = self.emit(aten.slice.Tensor, self.x, *self.bounds)
        if not self.is_alone:
            part = self.emit(aten.index_put.default, before, self.indices, values, accumulate)
        else:
            part = self.emit(aten.expand.default, values, sizes_of(self.emit, before))
            if accumulate and not _is_zero(self.x):
                part = self.emit(aten.add.Tensor, before, part)
        return self.emit(aten.slice_scatter.default, self.x, part, *self.bounds)


def _is_zero(x: Node) -> bool:
    """Whether a value is a constant zero, into which a gradient is added."""
    return x.target is aten.full.default and x.args[1] == 0


def _by_slice(row: Callable, batch: Batch) -> Callable:
    def guarded(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Any:
        x, indices, *others = args
        for dim, (index, size) in enumerate(zip(indices, shape_of(x) or (), strict=False)):
            rows = _rows(emit, index) if batch.in_size(size) else None
            if rows is not None and rows.are_within(size, batch):
                count = emit(prims.iota.default, rows.length, **_COUNT | {"device": index.meta["val"].device})
                counted = [*indices[:dim], count, *indices[dim + 1 :]]
                return row(_Indexed(emit, x, dim, rows, counted), *others, **kwargs)
        return None

    return guarded


_COUNT = {"start": 0, "step": 1, "dtype": torch.int64, "requires_grad": False}
_TABLE: dict[Any, Callable] = {
    aten.index.Tensor: _Indexed.get,
    aten._unsafe_index.Tensor: _Indexed.get,
    aten.index_put.default: _Indexed.put,
    aten._unsafe_index_put.default: _Indexed.put,
}
