"""Graphs that run whole, as one operator after the other: what they make, for reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sympy
import torch
from torch.fx import Node

from ..diagnostics.where import Frame, user_frame
from ..ir.sizes import expression
from .plan import ValueFact


def values_of(nodes: Iterable[Node], size: Callable[[Any], Any] = expression) -> tuple[ValueFact, ...]:
    """What nodes of a graph from Dynamo make, each tensor's memory once."""
    seen: set[int] = set()
    return tuple(fact for node in nodes for fact in _values(node, seen, size))


def _values(node: Node, seen: set[int], size: Callable[[Any], Any]) -> Iterator[ValueFact]:
    frame = user_frame(node.meta.get("stack_trace"))
    if node.op == "output":
        return
    made = node.meta.get("example_value")
    for value in made if isinstance(made, (tuple, list)) else [made]:
        if not isinstance(value, torch.Tensor) or (memory := _memory(value)) in seen:
            continue
        seen.add(memory)
        if node.op == "placeholder":
            continue
        yield _fact(node.name, tuple(map(size, value.shape)), value.dtype, frame)


def _memory(value: torch.Tensor) -> int:
    """What views of one tensor have in common; a tensor within a torch.func transform shows no memory."""
    try:
        return id(value.untyped_storage())
    except NotImplementedError:
        return id(value)


def unknown(name: str, line: Frame | None) -> ValueFact:
    """Something of unknown size that was computed whole at a line, in no graph."""
    return _fact(name, (sympy.Symbol("unknown"),), None, line)


def _fact(name: str, shape: tuple, dtype: torch.dtype | None, line: Frame | None) -> ValueFact:
    if line is None:
        return ValueFact(name, shape, dtype, "R")
    return ValueFact(name, shape, dtype, "R", line.where, line.code, function=line.function)


def captured(size: int | torch.SymInt) -> Any:
    """A size as it is at capture; the symbol of one that data decides."""
    if not isinstance(size, torch.SymInt):
        return size
    return int(size.node.hint) if size.node.has_hint() else expression(size)
