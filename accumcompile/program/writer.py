"""Writes nodes into a graph: sizes, and the source graph's nodes as their rules emit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from ..ir.arithmetic import apply, emit_number
from ..ir.operands import Path, operands, rebuild, shape_of
from ..ir.origin import origin
from ..ir.placement import Placement, R, Size
from ..propagation.placed import Propagation
from ..rules.rule import Facts, Rule
from ..rules.table import rule_of

aten = torch.ops.aten
_SPELLING = {aten.view.default: aten.reshape.default}  # slices and assembled values may have other strides


class Writer:
    """Adds nodes to a graph and computes sizes in it."""

    def __init__(self, propagation: Propagation, over: sympy.Symbol | None = None):
        self.propagation, self.batch = propagation, propagation.rows_of(over)
        self.graph = Graph()
        self._sizes: dict[Size, Node | int] = {}

    def call(self, target: Any, args: Iterable[Any], kwargs: dict | None = None, like: Node | None = None) -> Node:
        """A new node; with ``like``, it takes the name and origin of that node."""
        name = None if like is None else like.name
        node = self.graph.create_node("call_function", _SPELLING.get(target, target), tuple(args), kwargs or {}, name)
        if like is not None:
            node.meta |= origin(like)
        return node

    def number(self, target: Callable, *arguments: Any) -> Any:
        """Arithmetic on sizes: evaluated now if all are known, else emitted as a node."""
        return apply(self.graph, target, *arguments)

    def size(self, size: Size) -> Node | int:
        """A node (or number) for a size."""
        size = self.batch.unified(size)
        if not isinstance(size, sympy.Basic):
            return size
        if size not in self._sizes:
            self._sizes[size] = emit_number(self.graph, size, self.symbol)
        return self._sizes[size]

    def symbol(self, symbol: sympy.Symbol) -> Node:
        """The node that holds a symbol's value."""
        raise LookupError(symbol)

    # --- queries that rules may make; these answers are for bridges

    def facts(self, node: Node) -> Facts:
        """The facts that the node's rule is applied to."""
        shapes = tuple(shape_of(o.node) for o in operands(node))
        return Facts(node, shapes, (shape_of(node),), self.batch)

    def placement(self, node: Node) -> Placement:
        """The placement that a node of the source graph has here."""
        return R

    def shape(self, node: Node) -> tuple[Size, ...]:
        """The shape that a node of the source graph has here."""
        return shape_of(node) or ()

    def offset(self, node: Node) -> Node | None:
        """Where a factory's result begins along its sharded dimension; None if it is not sharded."""
        return None

    def emit(self, node: Node, at: Callable[[Path, Any], Any], write: Callable | None = None) -> Node:
        """Emit a node of the source graph; ``at`` maps each leaf of its arguments to its value here."""
        rule = rule_of(node.target) or Rule()
        args, kwargs = rebuild(node, at)
        write = write or rule.local or _plainly
        if rule.shape_arg is not None:
            args = self.with_shape(args, rule.shape_arg, self.shape(node))
        return write(self, node, args, kwargs)

    def with_shape(self, args: tuple, position: int, shape: Iterable[Size]) -> tuple:
        """The arguments with the result's shape at ``position`` replaced."""
        here = self.sizes(shape)
        value = here if isinstance(args[position], (list, tuple)) else here[0]
        return (*args[:position], value, *args[position + 1 :])

    def sizes(self, shape: Iterable[Size]) -> list[Node | int]:
        """A shape as arguments of a node."""
        return [self.size(s) for s in shape]


def _plainly(writer: Writer, node: Node, args: tuple, kwargs: dict) -> Node:
    return writer.call(node.target, args, kwargs, like=node)
