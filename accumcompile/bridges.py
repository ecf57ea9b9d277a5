"""The bridges of a program: full values, made on demand between its loops."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from .loop import Split
from .operands import Path, is_size, shape_of
from .propagation import Propagation
from .rules.table import is_impure
from .sizes import expression
from .writer import Writer

aten = torch.ops.aten


class Bridges(Writer):
    """The program: full values, made on demand between the loops."""

    def __init__(self, graph: Graph, known: Propagation):
        super().__init__(known)
        self.split = self.graph.placeholder("split")
        self._whole_split: Node | None = None
        self.whole_of: dict[Node, Any] = {}
        self._source = graph
        for node in graph.find_nodes(op="placeholder"):
            self.whole_of[node] = copy = self.graph.placeholder(node.name)
            copy.meta |= node.meta
        self._symbols = dict(self._bindings())

    def _bindings(self):
        """Every symbol that can be read off an input, and how."""
        found: set[sympy.Symbol] = set()
        for node in self._source.find_nodes(op="placeholder"):
            expr = expression(node.meta["val"]) if is_size(node) else None
            if isinstance(expr, sympy.Symbol) and expr not in found:
                found.add(expr)
                yield self.batch.unified(expr), self.whole_of[node]
        for node in self._source.find_nodes(op="placeholder"):
            for dim, expr in enumerate(shape_of(node) or ()):
                if isinstance(expr, sympy.Symbol) and expr not in found:
                    found.add(expr)
                    yield self.batch.unified(expr), (node, dim)

    def symbol(self, symbol: sympy.Symbol) -> Node:
        """Read off an input, or off the node whose data it is."""
        bound = self._symbols.get(symbol)
        if isinstance(bound, tuple):
            bound = self._symbols[symbol] = self.call(aten.sym_size.int, (self.whole_of[bound[0]], bound[1]))
        return bound if bound is not None else self._from_data(symbol)

    def _from_data(self, symbol: sympy.Symbol) -> Node:
        """A size that depends on data: read off the node that made it."""
        for node in self._source.nodes:
            if node.op == "call_function" and is_size(node) and expression(node.meta["val"]) == symbol:
                self._symbols[symbol] = found = self._copy(node)
                return found
        return self._size_of_result(symbol)

    def _size_of_result(self, symbol: sympy.Symbol) -> Node:
        """A size that no node of its own holds, because only sums with it are used: that of the value that has it."""
        for node in self._source.nodes:
            for dim, size in enumerate(shape_of(node) or ()):
                if size == symbol:
                    self._symbols[symbol] = found = self.call(aten.sym_size.int, (self.whole(node), dim))
                    return found
        raise LookupError(symbol)

    def whole(self, node: Node) -> Any:
        """The full value of a node of the source graph: assembled by a loop, or made here."""
        if node not in self.whole_of:
            self.whole_of[node] = self._get_attr(node) if node.op == "get_attr" else self._copy(node)
        return self.whole_of[node]

    def _get_attr(self, node: Node) -> Node:
        return self.graph.get_attr(node.target)

    def _copy(self, node: Node) -> Node:
        def at(path: Path, leaf: Any) -> Any:
            if not isinstance(leaf, Node):
                return leaf
            return self._number(leaf) if is_size(leaf) else self.whole(leaf)

        copy = self.emit(node, at)
        copy.meta["val"] = node.meta.get("val")
        return copy

    def _number(self, node: Node) -> Any:
        """A number that a node of the source graph yields."""
        expr = expression(node.meta["val"]) if isinstance(node.meta["val"], torch.SymInt) else node.meta["val"]
        if isinstance(expr, (torch.SymFloat, torch.SymBool)):
            expr = expr.node.expr
        if isinstance(expr, sympy.Expr):
            return self.size(expr)
        return expr

    def at_once(self) -> Node:
        """The split of a loop that runs as one micro-batch."""
        if self._whole_split is None:
            self._whole_split = self.call(Split.at_once, (self.split,))
        return self._whole_split

    def draw(self, before: int) -> None:
        """Run what may run only once, in its original order, as soon as its operands are there."""
        for node in self._source.nodes:
            if node.op == "call_function" and is_impure(node) and self.known.values[node].stage <= before:
                self.whole(node)
