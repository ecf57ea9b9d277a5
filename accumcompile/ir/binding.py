"""Sizes as numbers: what the symbols of a graph stand for, in one call or in the call that was traced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import sympy
import torch
from torch.fx import Node

from ..diagnostics import errors
from .placement import Size
from .sizes import expression

# A symbol, or an expression of which only the whole is known, and its number.
Binding: TypeAlias = Mapping[sympy.Basic, int]


def value(size: Size, sizes: Binding) -> int | None:
    """A size as a number; None where ``sizes`` do not say: data decides it."""
    if not isinstance(size, sympy.Basic):
        return int(size)
    if size in sizes:
        return sizes[size]
    bound = size.xreplace(dict(sizes))
    return int(bound) if bound.is_number else _multiple(size, sizes)


def _multiple(size: sympy.Basic, sizes: Binding) -> int | None:
    """The value of a multiple of a size of which only the whole is known: a stride of ``8 * (16 * (s // 2))``, say."""
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
    """Whether the call's sizes say what a shape is: not where data decides it."""
    return all(value(size, sizes) is not None for size in shape)


def traced(size: Any) -> int:
    """A size in the call that was traced; where only data decides it, a number that may stand for it."""
    expr = expression(size)
    # Not its hint: a size of data that a check has found equal to one that is known has none.
    return weigh(expr.xreplace(size.node.shape_env.backed_var_to_val) if isinstance(expr, sympy.Expr) else expr)


_TRIED = (64, 96, 97, 1009, 2)  # numbers that stand for a symbol, until one makes a size of the expression


def weigh(size: Size) -> int:
    """About how large a size is: every symbol taken as one number, for which ``size`` is no division by zero."""
    if not isinstance(size, sympy.Expr):
        return int(size)
    for tried in _TRIED:
        try:
            weight = size.xreplace(dict.fromkeys(size.free_symbols, sympy.Integer(tried)))
        except ZeroDivisionError:  # of torch's divisions; sympy's own is infinite
            continue
        if weight.is_finite and weight >= 0:
            return int(weight)
    return _TRIED[0]


# --- read off arguments


class Read(NamedTuple):
    """Where a size stands among arguments: along ``dim`` of a tensor of this ``rank``, or as the number itself."""

    position: int
    dim: int | None = None
    rank: int | None = None

    def __call__(self, arguments: Sequence[Any]) -> int:
        argument = arguments[self.position]
        return argument if self.dim is None else argument.shape[self.dim]

    def fits(self, arguments: Sequence[Any]) -> bool:
        """Whether the argument is what the size was read off: no number for a tensor, and not reshaped since."""
        argument = arguments[self.position]
        if isinstance(argument, torch.Tensor):
            return argument.dim() == self.rank
        return self.dim is None and isinstance(argument, int)


def reads(holders: Iterable[Node]) -> Iterator[tuple[sympy.Expr, Read]]:
    """Each symbolic size among the placeholders' values, with how to read it off the arguments in their order."""
    for position, holder in enumerate(holders):
        meta = holder.meta.get("val")
        if isinstance(meta, torch.Tensor):
            for dim, size in enumerate(map(expression, meta.shape)):
                if isinstance(size, sympy.Expr):
                    yield size, Read(position, dim, meta.dim())
        elif isinstance(size := size_held(holder), sympy.Expr):
            yield size, Read(position)


def symbol_reads(holders: Iterable[Node]) -> list[tuple[sympy.Symbol, Read]]:
    """How to read each symbol, once."""
    by_symbol: dict[sympy.Symbol, Read] = {}
    for size, read in reads(holders):
        if isinstance(size, sympy.Symbol):
            by_symbol.setdefault(size, read)
    return list(by_symbol.items())


def bind(holders: Sequence[Node], arguments: Sequence[Any]) -> dict[sympy.Basic, int]:
    """Every symbolic size that the placeholders' metadata names; two values of one size are an error of ours."""
    sizes: dict[sympy.Basic, int] = {}
    for size, read in reads(holders):
        if read.fits(arguments):
            before = sizes.setdefault(size, now := read(arguments))
            at = holders[read.position]
            errors.check(before == now, f"two values of size {size}", f"{before} and {now}, at {at}")
    return sizes


def size_held(holder: Node) -> Size | None:
    """The expression of a placeholder that holds a number; one without metadata is a symbol of its own."""
    meta = holder.meta.get("val")
    if meta is None:
        return sympy.Symbol(f"_{holder.name}", integer=True)
    return expression(meta) if isinstance(meta, (int, torch.SymInt, sympy.Expr)) else None
