"""Sizes as numbers: the values of a graph's symbols in one call, or in the traced call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import sympy
import torch
from torch.fx import Node

from ..diagnostics import errors
from .placement import Size
from .sizes import expression

# Maps a symbol, or an expression known only as a whole, to its number.
Binding: TypeAlias = Mapping[sympy.Basic, int]


def value(size: Size, sizes: Binding) -> int | None:
    """A size as a number; None if ``sizes`` do not determine it, because it is data-dependent."""
    if not isinstance(size, sympy.Basic):
        return int(size)
    if size in sizes:
        return sizes[size]
    bound = size.xreplace(dict(sizes))
    return int(bound) if bound.is_number else _multiple(size, sizes)


def _multiple(size: sympy.Basic, sizes: Binding) -> int | None:
    """The value of a multiple of an expression known only as a whole: a stride of ``8 * (16 * (s // 2))``, say."""
    for measured, number in sizes.items():
        ratio = (size / measured).xreplace(dict(sizes)) if number else sympy.nan
        if ratio.is_Rational:
            return int(ratio * number)
    return None


def number(size: Size, sizes: Binding) -> int:
    """A size that must be known."""
    bound = value(size, sizes)
    errors.check(bound is not None, f"the size {size} is not known")
    return bound or 0


def is_known(shape: Iterable[Size], sizes: Binding) -> bool:
    """Whether the call's sizes determine a shape; False if a dimension is data-dependent."""
    return all(value(size, sizes) is not None for size in shape)


def traced(size: Any) -> int:
    """The value of a size in the traced call; if it is data-dependent, that of the largest known."""
    expr = expression(size)
    if not isinstance(expr, sympy.Expr):
        return int(expr)
    # Not its hint: a data-dependent size that a check has equated with a known size has none.
    known = size.node.shape_env.backed_var_to_val
    return weigh(expr.xreplace(known), (max(map(int, known.values()), default=_TRIED[0]), *_TRIED))


_TRIED = (64, 96, 97, 1009, 2)  # values tried for a symbol until the expression becomes a valid size


def weigh(size: Size, values: Iterable[int] = _TRIED) -> int:
    """A rough estimate of a size: every symbol set to one of ``values`` that makes it finite and not negative."""
    if not isinstance(size, sympy.Expr):
        return int(size)
    for tried in values:
        try:
            weight = size.xreplace(dict.fromkeys(size.free_symbols, sympy.Integer(tried)))
        except ZeroDivisionError:  # from torch's divisions; sympy's own gives infinity
            continue
        if weight.is_finite and weight >= 0:
            return int(weight)
    return _TRIED[0]


# --- reading sizes from arguments


class Read(NamedTuple):
    """Where to read a size among arguments: dimension ``dim`` of a tensor of this ``rank``, or the argument itself."""

    position: int
    dim: int | None = None
    rank: int | None = None

    def __call__(self, arguments: Sequence[Any]) -> int:
        argument = arguments[self.position]
        return argument if self.dim is None else argument.shape[self.dim]

    def fits(self, arguments: Sequence[Any]) -> bool:
        """Whether the argument has the expected form: a tensor of the same rank, or an int."""
        argument = arguments[self.position]
        if isinstance(argument, torch.Tensor):
            return argument.dim() == self.rank
        return self.dim is None and isinstance(argument, int)


def reads(holders: Iterable[Node]) -> Iterator[tuple[sympy.Expr, Read]]:
    """Each symbolic size in the placeholders' values, with how to read it from the arguments (in the same order)."""
    for position, holder in enumerate(holders):
        meta = holder.meta.get("val")
        if isinstance(meta, torch.Tensor):
            for dim, size in enumerate(map(expression, meta.shape)):
                if isinstance(size, sympy.Expr):
                    yield size, Read(position, dim, meta.dim())
        elif isinstance(size := size_held(holder), sympy.Expr):
            yield size, Read(position)


def symbol_reads(holders: Iterable[Node]) -> list[tuple[sympy.Symbol, Read]]:
    """Each symbol once, with how to read it."""
    by_symbol: dict[sympy.Symbol, Read] = {}
    for size, read in reads(holders):
        if isinstance(size, sympy.Symbol):
            by_symbol.setdefault(size, read)
    return list(by_symbol.items())


def bind(holders: Sequence[Node], arguments: Sequence[Any]) -> dict[sympy.Basic, int]:
    """The value of every symbolic size in the placeholders' metadata; conflicting values are an internal error."""
    sizes: dict[sympy.Basic, int] = {}
    for size, read in reads(holders):
        if read.fits(arguments):
            before = sizes.setdefault(size, now := read(arguments))
            at = holders[read.position]
            errors.check(before == now, f"two values of size {size}", f"{before} and {now}, at {at}")
    return sizes


def size_held(holder: Node) -> Size | None:
    """The expression of a placeholder that holds a number; without metadata, a symbol named after the placeholder."""
    meta = holder.meta.get("val")
    if meta is None:
        return sympy.Symbol(f"_{holder.name}", integer=True)
    return expression(meta) if isinstance(meta, (int, torch.SymInt, sympy.Expr)) else None
