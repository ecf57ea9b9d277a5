"""What a compiled graph may assume about each of its arguments, derived from the arguments at hand.

Sizes that were symbolic in the captured graph stay symbolic, in that graph's symbols, so that equal specs
mean that a compiled graph can be reused; sizes 0 and 1 are always specialised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch
from torch.fx import Node

from ..diagnostics import errors
from ..ir import binding
from ..ir.binding import Binding, size_held
from ..ir.placement import Size
from ..ir.sizes import expression

aten = torch.ops.aten


@dataclass(frozen=True)
class Literal:
    """A value that is compiled in, and therefore part of the key."""

    kind: type
    value: Any


@dataclass(frozen=True)
class Symbolic:
    """A number that stays an argument."""

    expr: sympy.Expr


@dataclass(frozen=True)
class Floating:
    """A Python float that stays an argument: it becomes a 0-dim tensor."""


@dataclass(frozen=True)
class Array:
    """A tensor; its dims are numbers or expressions in the captured graph's symbols."""

    shape: tuple[Size, ...]
    stride: tuple[Size, ...]
    dtype: torch.dtype
    device: torch.device


ArgumentSpec: TypeAlias = Literal | Symbolic | Floating | Array


def describe(holder: Node, value: Any, sizes: Binding, shape: Sequence[Size] | None = None) -> ArgumentSpec:
    """The spec of an argument; ``shape`` is the expected shape if it differs from the metadata's."""
    if isinstance(value, torch.Tensor):
        return describe_tensor(value, shape or _shape(holder, value), sizes)
    if isinstance(value, float) and _is_factor(holder):
        return Floating()
    if isinstance(value, int) and not isinstance(value, bool):
        expr = small_folded(size_held(holder), sizes)
        if isinstance(expr, sympy.Expr) and value not in (0, 1):
            return Symbolic(expr)
    return Literal(type(value), value)


def _shape(holder: Node, value: torch.Tensor) -> Sequence[Size]:
    meta = holder.meta.get("val")
    if isinstance(meta, torch.Tensor) and meta.dim() == value.dim():
        return [expression(d) for d in meta.shape]
    return value.shape


def describe_tensor(value: torch.Tensor, shape: Sequence[Size], sizes: Binding) -> Array:
    """The spec of a tensor whose dims are ``shape``."""
    dims = tuple(small_folded(d, sizes) for d in shape)
    numbers = [binding.value(d, sizes) for d in dims]
    dims = tuple(n if number is None else d for d, number, n in zip(dims, numbers, value.shape, strict=True))
    wrong = [(str(d), n) for d, number, n in zip(shape, numbers, value.shape, strict=True) if number not in (None, n)]
    errors.check(not wrong, "an argument of a loop has another shape than was planned", str(wrong))
    return Array(dims, symbolic_stride(value, dims), value.dtype, value.device)


def small_folded(dim: Size | None, sizes: Binding) -> Size | None:
    """``dim`` with sizes that are now 0 or 1 as numbers, since compilers specialise on those."""
    if not isinstance(dim, sympy.Expr):
        return dim
    folded = dim.xreplace({s: sympy.Integer(n) for s, n in sizes.items() if n in (0, 1)})
    number = binding.value(folded, sizes)
    return number if number in (0, 1) or not folded.free_symbols else folded


def symbolic_stride(value: torch.Tensor, dims: Sequence[Size]) -> tuple[Size, ...]:
    """Strides of a dense tensor as products of its dims, so that they hold for other sizes too."""
    stride: list[Size] = list(value.stride())
    running, symbolic = 1, sympy.Integer(1)
    for dim in sorted(range(value.dim()), key=lambda d: (value.stride(d), value.size(d))):
        if value.stride(dim) == running:
            stride[dim] = symbolic if symbolic.free_symbols else int(symbolic)
            running, symbolic = running * value.size(dim), symbolic * dims[dim]
    return tuple(stride)


def stride_pattern(value: torch.Tensor) -> tuple[Size, ...]:
    """The strides in terms of the dims, independent of their sizes."""
    return symbolic_stride(value, sympy.symbols(f"d:{value.dim()}", integer=True, positive=True))


SCALED = {
    op: getattr(aten, name).Tensor
    for name in ("mul", "div", "add", "sub")
    for op in (getattr(aten, name).Tensor, getattr(aten, name).Scalar)
}


def _is_factor(holder: Node) -> bool:
    """Whether a float can become a 0-dim tensor: its only uses are arithmetic with a tensor on the left."""
    return all(
        user.target in SCALED
        and len(user.args) == 2
        and not user.kwargs
        and holder not in user.args[:1]
        and isinstance(other := user.args[0], Node)
        and (other.op != "placeholder" or _is_floating(other))
        for user in holder.users
    )


def _is_floating(node: Node) -> bool:
    meta = node.meta.get("val")
    return isinstance(meta, torch.Tensor) and meta.is_floating_point()
