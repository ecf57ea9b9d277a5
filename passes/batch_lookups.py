"""Lookups by position along the batch, rewritten so that each micro-batch can do its share of them.

Before::

    gather = aten.gather.default(x, 1, i)                     # x: [n, s0], i: [n, 1]

After::

    position = aten.view.default(prims.iota(s0), [1, s0])
    gather = aten.sum.dim_IntList(aten.where.self(position == i, x, 0), [1], True)

Looking up a position in a split dimension would need the whole dimension. Comparing positions does not: each
micro-batch contributes the elements that it holds, and exact zeros elsewhere, as in the vocabulary-parallel
embedding of Megatron-LM (Shoeybi et al. 2019, section 3).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.sizes import Batch, expression

from .manager import Context
from .rewriting import Emit, Rewrite, rewrite, scalar, sizes_of

aten, prims = torch.ops.aten, torch.ops.prims


def batch_lookups(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite the lookups of one position along a dimension that holds the batch; leave the others alone."""
    return rewrite(gm, {op: _along_batch(row, context.batch) for op, row in _TABLE.items()})


def _along_batch(row: Callable, batch: Batch) -> Rewrite:
    """Apply ``row`` only if the dimension holds the batch and ``x`` is computed: an input is available whole anyway."""

    def guarded(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Any:
        shape = node.args[0].meta["val"].shape
        if not shape or node.args[0].op == "placeholder" or kwargs:
            return None
        at = next(i for i, a in enumerate(args) if isinstance(a, int))
        dim = args[at] % len(shape)
        return row(emit, *args[:at], dim, *args[at + 1 :]) if batch.is_of_rows(expression(shape[dim])) else None

    return guarded


def _gather(emit: Emit, x: Node, dim: int, index: Node, *sparse: bool) -> Node | None:
    return _sum_of(emit, x, dim, index, keepdim=True) if _one_each(x, index, dim) else None


def _select(emit: Emit, x: Node, dim: int, index: object) -> Node | None:
    if not isinstance(index, int):
        return None
    return _sum_of(emit, x, dim, _from_the_front(emit, index, sizes_of(emit, x)[dim]), keepdim=False)


def _scatter(emit: Emit, x: Node, dim: int, index: Node, source: Node | float) -> Node | None:
    if not _one_each(x, index, dim):
        return None
    source = source if isinstance(source, Node) else scalar(emit, source, x)
    return emit(aten.where.self, _position_is(emit, x, dim, index), source, x)


def _scatter_add(emit: Emit, x: Node, dim: int, index: Node, source: Node) -> Node | None:
    if not _one_each(x, index, dim):
        return None
    zero = scalar(emit, 0, x)
    return emit(aten.add.Tensor, x, emit(aten.where.self, _position_is(emit, x, dim, index), source, zero))


def _select_scatter(emit: Emit, x: Node, source: Node, dim: int, index: object) -> Node | None:
    if not isinstance(index, int):
        return None
    sizes = sizes_of(emit, x)
    row = emit(aten.view.default, source, [1 if d == dim else size for d, size in enumerate(sizes)])
    return emit(aten.where.self, _position_is(emit, x, dim, _from_the_front(emit, index, sizes[dim])), row, x)


def _from_the_front(emit: Emit, index: int, size: Any) -> object:
    return index if index >= 0 else emit(operator.add, size, index)


_TABLE: dict[Any, Callable] = {
    aten.gather.default: _gather,
    aten.select.int: _select,
    aten.select_scatter.default: _select_scatter,
    aten.scatter.value: _scatter,
    aten.scatter.src: _scatter,
    aten.scatter_add.default: _scatter_add,
}


def _one_each(x: Node, index: Node, dim: int) -> bool:
    """Whether ``index`` has exactly one entry along ``dim`` for each row of ``x``."""
    rows, asked = ([expression(size) for size in node.meta["val"].shape] for node in (x, index))
    return asked == [1 if d == dim else size for d, size in enumerate(rows)]


def _sum_of(emit: Emit, x: Node, dim: int, index: object, keepdim: bool) -> Node:
    """The element at ``index``, as a sum of which all other terms are zero."""
    value = x.meta["val"]
    held = emit(aten.where.self, _position_is(emit, x, dim, index), x, scalar(emit, 0, x))
    if value.dtype == torch.bool:
        return emit(aten.any.dims, held, [dim], keepdim)
    return emit(aten.sum.dim_IntList, held, [dim], keepdim, dtype=value.dtype)


def _position_is(emit: Emit, x: Node, dim: int, index: object) -> Node:
    """A mask of where the position along ``dim`` is ``index``: a number, or a tensor with one entry along ``dim``."""
    size, rank = sizes_of(emit, x)[dim], x.meta["val"].dim()
    where = {"dtype": torch.int64, "device": x.meta["val"].device, "requires_grad": False}
    position = emit(prims.iota.default, size, start=0, step=1, **where)
    shaped = emit(aten.view.default, position, [size if d == dim else 1 for d in range(rank)])
    if isinstance(index, Node) and isinstance(index.meta["val"], torch.Tensor):
        return emit(aten.eq.Tensor, shaped, index)
    return emit(aten.eq.Scalar, shaped, index)
