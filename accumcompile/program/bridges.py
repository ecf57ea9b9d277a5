"""The bridges of a program: full values, computed on demand between its loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from ..diagnostics import errors
from ..ir.loop import ProgramCode, Split
from ..ir.operands import Path, is_size, reads_sizes, shape_of
from ..ir.origin import PLACE
from ..ir.sizes import SYMBOLIC, expression
from ..planning.schedule import Loop
from ..propagation.placed import Propagation
from ..rules.table import is_impure
from .writer import Writer

aten = torch.ops.aten


class Bridges(Writer):
    """The graph of the program, with full values computed on demand between the loops."""

    def __init__(self, graph: Graph, propagation: Propagation):
        super().__init__(propagation)
        self.graph.set_codegen(ProgramCode())
        self.split = self.graph.placeholder("split")
        self._splits: dict[tuple[sympy.Symbol | None, bool], Node] = {}
        self.whole_of: dict[Node, Any] = {}
        self._source = graph
        for node in graph.find_nodes(op="placeholder"):
            self.whole_of[node] = copy = self.graph.placeholder(node.name)
            copy.meta |= node.meta
        self._symbols = dict(self._bindings())

    def _bindings(self):
        """Every symbol that can be read from an input, and how."""
        bound: set[sympy.Symbol] = set()
        for node in self._source.find_nodes(op="placeholder"):
            expr = expression(node.meta["val"]) if is_size(node) else None
            if isinstance(expr, sympy.Symbol) and expr not in bound:
                bound.add(expr)
                yield self.batch.unified(expr), self.whole_of[node]
        for node in self._source.find_nodes(op="placeholder"):
            for dim, expr in enumerate(shape_of(node) or ()):
                if isinstance(expr, sympy.Symbol) and expr not in bound:
                    bound.add(expr)
                    yield self.batch.unified(expr), (node, dim)

    def symbol(self, symbol: sympy.Symbol) -> Node:
        """The node for a symbol: read from an input, or from the node that introduces it if it is data-dependent."""
        bound = self._symbols.get(symbol)
        if isinstance(bound, tuple):
            bound = self._symbols[symbol] = self.call(aten.sym_size.int, (self.whole_of[bound[0]], bound[1]))
        return bound if bound is not None else self._from_data(symbol)

    def _from_data(self, symbol: sympy.Symbol) -> Node:
        """A data-dependent size: the number that introduced it, or a size of the tensor that did."""
        makers = self.propagation.makers
        errors.check(symbol in makers, f"nothing in the graph has the size {symbol}")
        node, dim = makers[symbol]
        value = self.whole(node)
        self._symbols[symbol] = size = value if dim is None else self.call(aten.sym_size.int, (value, dim))
        return size

    def whole(self, node: Node) -> Any:
        """The full value of a node of the source graph: assembled by a loop, or computed here."""
        stack = [node]
        while stack:
            node = stack[-1]
            missing = [] if node in self.whole_of else [n for n in self._reads(node) if n not in self.whole_of]
            stack += reversed(missing)
            if not missing:
                stack.pop()
                if node not in self.whole_of:
                    self.whole_of[node] = self._make(node)
        return self.whole_of[node]

    def _reads(self, node: Node) -> list[Node]:
        """The values that a node needs first: its operands, and those that introduce its data-dependent sizes."""
        tensors = [n for n in node.all_input_nodes if not is_size(n)]
        sizes = [n.meta["val"] for n in node.all_input_nodes if is_size(n)]
        if reads_sizes(node):
            tensors, sizes = [], [node.meta["val"]]
        decided = [maker for size in (*sizes, *(shape_of(node) or ())) for maker in self.propagation.makers_of(size)]
        return tensors + [maker for maker in decided if maker is not node]

    def _make(self, node: Node) -> Any:
        if node.op == "get_attr":
            return self.graph.get_attr(node.target)
        if reads_sizes(node):
            return self.size(expression(node.meta["val"]))
        copy = self.emit(node, self._leaf)
        copy.meta |= {"val": node.meta.get("val"), PLACE: f"R @{self.propagation[node].stage}"}
        return copy

    def _leaf(self, path: Path, leaf: Any) -> Any:
        """The value here of an argument of a source graph's node."""
        if not isinstance(leaf, Node):
            return leaf
        value = leaf.meta.get("val")
        if not is_size(leaf):
            return self.whole_of[leaf]
        return self.size(expression(value)) if isinstance(value, SYMBOLIC) else value

    def split_of(self, loop: Loop) -> Node:
        """How a loop's rows are split: as the batch is, or into as many parts, or not at all."""
        key = loop.over, loop.at_once
        if key not in self._splits:
            self._splits[key] = self._split(loop)
        return self._splits[key]

    def _split(self, loop: Loop) -> Node:
        if loop.at_once:
            return self.call(Split.at_once, (self.split_of(replace(loop, at_once=False)),))
        if loop.over is None:
            return self.split
        count = self.size(self.propagation.count_of(loop.over))
        return self.call(Split.along, (self.split, count, self.propagation.granule(loop.over)))

    def draw(self, before: int) -> None:
        """Run the run-once nodes up to stage ``before``, in their original order."""
        for node in self._source.nodes:
            if node.op == "call_function" and is_impure(node) and self.propagation[node].stage <= before:
                self.whole(node)
