"""Sizes at run time: how each symbol of a graph is read off a call's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule

from .operands import is_size
from .sizes import expression

Read = Callable[[Sequence[Any]], int]


def bindings(gm: GraphModule) -> Iterator[tuple[sympy.Symbol, Read]]:
    """Each symbol that is a size among the inputs of ``gm``, with how to read it off the arguments."""
    found: set = set()
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        value = node.meta.get("val")
        if is_size(node):
            yield from _once(found, expression(value) if isinstance(value, torch.SymInt) else None, _argument(position))
        elif isinstance(value, torch.Tensor):
            for dim, size in enumerate(value.shape):
                yield from _once(found, expression(size), _size(position, dim))


def number(size: Any, sizes: Mapping[sympy.Symbol, int]) -> int:
    """A size, of which the symbols are known."""
    return int(size.xreplace(sizes)) if isinstance(size, sympy.Expr) else size


def _once(found: set, expr: Any, read: Read) -> Iterator[tuple[sympy.Symbol, Read]]:
    if isinstance(expr, sympy.Symbol) and expr not in found:
        found.add(expr)
        yield expr, read


def _argument(position: int) -> Read:
    return lambda arguments: arguments[position]


def _size(position: int, dim: int) -> Read:
    return lambda arguments: arguments[position].shape[dim]
