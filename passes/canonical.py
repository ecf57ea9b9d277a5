"""One form for equivalent operators: reshapes become ``view``, and factories that copy a shape become ``full``.

Before::

    squeeze = aten.squeeze.default(x)                # what it does depends on which sizes are 1
    ones = aten.full_like.default(p, 1)              # p is not read, but is an operand

After::

    view = aten.view.default(x, [s0, 4])             # the traced shape, whatever the sizes turn out to be
    full = aten.full.default([s0, 4], 1, ...)
"""

from __future__ import annotations

import operator
import sys
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.binding import traced

from .manager import Context
from .rewriting import Emit, rewrite, sizes_of

aten, prims = torch.ops.aten, torch.ops.prims


def canonical(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite ``gm`` so that the table needs only one rule for equivalent operators."""
    return rewrite(gm, _TABLE)


def _shape(emit: Emit, node: Node, source: Node) -> list[Any]:
    """The traced shape of ``node``, its symbolic sizes read from ``source``; LookupError if that lacks one."""
    return [_size(emit, size, source) for size in node.meta["val"].shape]


def _size(emit: Emit, size: Any, source: Node) -> Any:
    if not isinstance(size, torch.SymInt):
        return size
    for d, candidate in enumerate(source.meta["val"].shape):
        if isinstance(candidate, torch.SymInt) and candidate.node.expr == size.node.expr:
            return emit(aten.sym_size.int, source, d)
    raise LookupError(size)


def _as_view(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node | None:
    try:
        return emit(aten.view.default, args[0], _shape(emit, node, args[0]))
    except LookupError:
        return None


def _strided(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
    """``as_strided`` between contiguous layouts is a view; any other one reads the traced layout."""
    source, result = args[0].meta["val"], node.meta["val"]
    plain = source.is_contiguous() and result.is_contiguous() and result.storage_offset() == 0
    if plain and source.numel() == result.numel() and (view := _as_view(emit, node, args, kwargs)) is not None:
        return view
    return emit(node.target, _laid_out(emit, args[0]), *args[1:], **kwargs)


def _by_layout(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
    """An operator whose result depends on its operand's strides gets the traced strides."""
    return emit(node.target, _laid_out(emit, args[0]), *args[1:], **kwargs)


def _laid_out(emit: Emit, x: Node) -> Node:
    """A copy of ``x`` with the traced order of dimensions in memory."""
    value = x.meta["val"]
    order = sorted(range(value.dim()), key=lambda d: -traced(value.stride(d)))
    if order == list(range(value.dim())):
        return emit(aten.clone.default, x, memory_format=torch.contiguous_format)
    outermost_first = emit(aten.permute.default, x, order)
    copy = emit(aten.clone.default, outermost_first, memory_format=torch.contiguous_format)
    return emit(aten.permute.default, copy, [order.index(d) for d in range(value.dim())])


def _same_as_view(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
    return emit(aten.view.default, *args)


def _as_full(value: float | None):
    """``full_like`` and its variants: the fill value is fixed, or the second argument."""

    def row(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
        result = node.meta["val"]
        fill = args[1] if value is None else value
        return emit(aten.full.default, sizes_of(emit, args[0]), fill, dtype=result.dtype, device=result.device)

    return row


def _new(position: int, value: float | None):
    """``new_zeros`` and its variants."""

    def row(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
        result = node.meta["val"]
        fill = args[2] if value is None else value
        return emit(aten.full.default, args[position], fill, dtype=result.dtype, device=result.device)

    return row


def _split(emit: Emit, node: Node, args: tuple, kwargs: dict) -> tuple[Node, ...]:
    """The parts of a split as slices, so that the rule for slices sees which rows each part holds."""
    x, sizes, dim = (*args, *kwargs.values(), 0)[:3]
    count = len(node.meta["val"])
    if not isinstance(sizes, (list, tuple)):
        sizes = [sizes] * count
    bounds = [0, *accumulate(sizes[:-1], partial(emit, operator.add)), sys.maxsize]
    return tuple(emit(aten.slice.Tensor, x, dim, *ends) for ends in pairwise(bounds))


def _mean(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
    dims = list(range(args[0].meta["val"].dim()))
    return emit(aten.mean.dim, args[0], dims, False, **kwargs)


def _weight_norm_backward(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node | None:
    """The kernel wants the norms in float32; the decomposition of its forward leaves them in float16."""
    gradient, v, g, norms, dim = args
    if norms.meta["val"].dtype != torch.float16:
        return None
    return emit(node.target, gradient, v, g, emit(prims.convert_element_type.default, norms, torch.float32), dim)


def _masked_put(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node | None:
    """One value put where a mask is true: ``x[mask] = 0``. (Of several values, each place takes the next one.)"""
    x, indices, value, accumulate = (*args, *kwargs.values(), False)[:4]
    (place, mask), *others = [(d, index) for d, index in enumerate(indices) if index is not None]
    if others or mask.meta["val"].dtype != torch.bool or value.meta["val"].dim() or accumulate:
        return None
    if behind := x.meta["val"].dim() - place - mask.meta["val"].dim():
        mask = emit(aten.view.default, mask, sizes_of(emit, mask) + [1] * behind)
    return emit(aten.where.self, mask, value, x)


def _permute(order):
    def row(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
        return emit(aten.permute.default, args[0], order(args[0].meta["val"].dim(), *args[1:]))

    return row


def _swapped(rank: int, a: int, b: int) -> list[int]:
    order = list(range(rank))
    order[a], order[b] = order[b], order[a]
    return order


def _identity(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node:
    return args[0]


_TABLE = {
    aten.squeeze.default: _as_view,
    aten.squeeze.dim: _as_view,
    aten.squeeze.dims: _as_view,
    aten.unsqueeze.default: _as_view,
    aten.as_strided.default: _strided,
    aten.as_strided_scatter.default: _by_layout,
    aten._weight_norm_interface_backward.default: _weight_norm_backward,
    aten._linalg_det.default: _by_layout,
    aten._linalg_slogdet.default: _by_layout,
    aten._unsafe_view.default: _same_as_view,
    aten.reshape.default: _same_as_view,
    aten._reshape_alias.default: lambda emit, node, args, kwargs: emit(aten.view.default, args[0], args[1]),
    aten.t.default: _permute(lambda rank: list(range(rank))[::-1]),
    aten.transpose.int: _permute(_swapped),
    aten.full_like.default: _as_full(None),
    aten.zeros_like.default: _as_full(0),
    aten.ones_like.default: _as_full(1),
    aten.empty_like.default: _as_full(0),
    aten.new_zeros.default: _new(1, 0),
    aten.new_ones.default: _new(1, 1),
    aten.new_full.default: _new(1, None),
    aten.new_empty.default: _new(1, 0),
    aten.new_empty_strided.default: _new(1, 0),
    aten.zeros.default: lambda emit, node, args, kwargs: emit(
        aten.full.default, args[0], 0, dtype=node.meta["val"].dtype, device=node.meta["val"].device
    ),
    aten.ones.default: lambda emit, node, args, kwargs: emit(
        aten.full.default, args[0], 1, dtype=node.meta["val"].dtype, device=node.meta["val"].device
    ),
    aten.mean.default: _mean,
    aten.index_put.default: _masked_put,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.detach.default: _identity,
    aten.alias.default: _identity,
    aten.lift_fresh_copy.default: _identity,
}
