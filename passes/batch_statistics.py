"""Means and variances over the batch, rewritten as sums with explicit counts.

Before::

    loss = aten.mean.dim(x, [0, 1])
    var, mean = aten.var_mean.correction(h, [0])

After::

    sum = aten.sum.dim_IntList(x, [0, 1]); loss = aten.div.Tensor(sum, s0 * 8)
    packed = accumcompile.moments(h, [0])            # (count, mean, M2), merged over micro-batches
    mean = packed[1]; var = packed[2] / (s0 - 1)

A count hidden inside an operator would be the micro-batch's.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.ops import moments
from accumcompile.ir.sizes import Batch, expression

from .manager import Context
from .rewriting import Emit, product, rewrite, sizes_of

aten, prims = torch.ops.aten, torch.ops.prims


def batch_statistics(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite every mean and variance over a dimension that holds the batch; leave the others alone."""
    rows = {aten.mean.dim: _mean, aten.var_mean.correction: _var_mean, aten.var.correction: _var}
    return rewrite(gm, {op: _over_batch(row, context.batch) for op, row in rows.items()})


def _over_batch(row, batch: Batch):
    def guarded(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Any:
        shape = node.args[0].meta["val"].shape
        dims = _dims(args, kwargs, len(shape))
        if not any(batch.is_of_rows(expression(shape[d])) for d in dims):
            return None
        return row(emit, node, args[0], dims, kwargs | ({"keepdim": args[2]} if len(args) > 2 else {}))

    return guarded


def _dims(args: tuple, kwargs: dict, rank: int) -> list[int]:
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    return sorted(d % rank for d in dims) if dims else list(range(rank))


def _widened(emit: Emit, x: Node) -> Node:
    """Half precision is summed in float32, as the replaced operators do internally."""
    half = x.meta["val"].dtype in (torch.float16, torch.bfloat16)
    return emit(prims.convert_element_type.default, x, torch.float32) if half else x


def _narrowed(emit: Emit, x: Node, like: Node) -> Node:
    dtype = like.meta["val"].dtype
    return x if x.meta["val"].dtype == dtype else emit(prims.convert_element_type.default, x, dtype)


def _count(emit: Emit, x: Node, dims: list[int]) -> Any:
    sizes = sizes_of(emit, x)
    return product(emit, [sizes[d] for d in dims])


def _mean(emit: Emit, node: Node, x: Node, dims: list[int], kwargs: dict) -> Node:
    total = emit(aten.sum.dim_IntList, _widened(emit, x), dims, kwargs.get("keepdim", False))
    return _narrowed(emit, emit(aten.div.Tensor, total, _count(emit, x, dims)), node)


def _statistics(emit: Emit, x: Node, dims: list[int], kwargs: dict) -> tuple[Node, Node]:
    """Variance and mean, with ``dims`` kept if ``keepdim`` is set."""
    packed = emit(moments, _widened(emit, x), dims)
    mean, m2 = emit(aten.select.int, packed, 0, 1), emit(aten.select.int, packed, 0, 2)
    correction = kwargs.get("correction")
    degrees = emit(operator.sub, _count(emit, x, dims), 1 if correction is None else correction)
    variance = emit(aten.div.Tensor, m2, degrees)
    if kwargs.get("keepdim", False):
        return variance, mean
    shape = [size for d, size in enumerate(sizes_of(emit, mean)) if d not in dims]
    return emit(aten.view.default, variance, shape), emit(aten.view.default, mean, shape)


def _var(emit: Emit, node: Node, x: Node, dims: list[int], kwargs: dict) -> Node:
    return _narrowed(emit, _statistics(emit, x, dims, kwargs)[0], node)


def _var_mean(emit: Emit, node: Node, x: Node, dims: list[int], kwargs: dict) -> tuple[Node, Node]:
    pair = _statistics(emit, x, dims, kwargs)
    like = x
    return tuple(_narrowed(emit, value, like) for value in pair)
