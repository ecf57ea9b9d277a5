"""The arguments that a loop passes to its body: slices, and the shapes that the body must compute from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from ..ir.binding import Binding, value
from ..ir.loop import Split, X, rows_of, slice_rows
from ..ir.sizes import ROWS, expression
from .specialise import specialise
from .specs import ArgumentSpec, Array, Literal, Symbolic, describe


class Cut:
    """How one x is cut.

    If another dim lies outside the sliced one in memory, the strides of a slice would depend on the batch, and slices
    are copied.
    """

    def __init__(self, x: torch.Tensor, dim: int, split: Split):
        self.dim, self.shape, self.batch = dim, x.shape, split.batch
        self.size = rows_of(split.rows, x.shape[dim], split.batch)
        others = [s for d, (s, n) in enumerate(zip(x.stride(), x.shape, strict=True)) if d != dim and n > 1]
        self.copied = 0 < x.stride(dim) < max(others, default=0)

    def pieces(self, x: torch.Tensor) -> Callable[[int], torch.Tensor]:
        """A function from i to the i-th slice of ``x``."""
        views = x.split(self.size, self.dim)
        return (lambda i: views[i].contiguous()) if self.copied else views.__getitem__


def local_shape(holder: Node, cut: Cut, rows: int, symbolic: bool) -> list[Any]:
    """The shape of a micro-batch's x: as predicted, or else the full shape with the sliced dim scaled to ``ROWS``."""
    meta = holder.meta.get("val")
    full = [expression(d) for d in meta.shape] if isinstance(meta, torch.Tensor) else cut.shape
    shape = list(holder.meta.get("local_shape") or (full if len(full) == len(cut.shape) else cut.shape))
    if "local_shape" not in holder.meta:
        shape[cut.dim] = ROWS * sympy.Rational(cut.shape[cut.dim], cut.batch)
    return shape if symbolic else [d.xreplace({ROWS: rows}) if isinstance(d, sympy.Expr) else d for d in shape]


def check_body(
    body: GraphModule,
    rows: Sequence[int],
    batch: int,
    consts: Sequence[Any],
    xs: Sequence[torch.Tensor],
    cuts: Sequence[X],
    sizes: Binding,
) -> None:
    """Trace a body at each number of rows; every node must have the shape that its placement predicts."""
    holders = list(body.graph.find_nodes(op="placeholder"))
    of_consts = [fixed(describe(h, c, sizes), sizes) for h, c in zip(holders[2:], consts, strict=False)]
    of_start = Array((), (), torch.int64, torch.device("cpu"))
    for count in rows:
        local = [slice_rows(x, cut.dim, 0, count, batch) for x, cut in zip(xs, cuts, strict=True)]
        of_xs = [Array(tuple(x.shape), x.stride(), x.dtype, x.device) for x in local]
        specialise(body.graph, body, [Literal(int, count), of_start, *of_consts, *of_xs], {**sizes, ROWS: count})


def fixed(spec: ArgumentSpec, sizes: Binding) -> ArgumentSpec:
    """The spec with every size as a number."""
    if isinstance(spec, Symbolic):
        return Literal(int, value(spec.expr, sizes))
    if isinstance(spec, Array):
        shape, stride = ([value(d, sizes) or 0 for d in dims] for dims in (spec.shape, spec.stride))
        return Array(tuple(shape), tuple(stride), spec.dtype, spec.device)
    return spec
