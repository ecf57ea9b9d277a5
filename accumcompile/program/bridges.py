"""The bridges of a program: full values, computed on demand between its loops."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import sympy
import torch
from torch.fx import Graph, Node

from ..diagnostics import errors
from ..ir.loop import ProgramCode, Split
from ..ir.operands import Path, data_symbols, is_size, shape_of
from ..ir.origin import PLACE
from ..ir.sizes import SYMBOLIC, expression
from ..ir.torch_api import is_unbacked
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
        self._whole_split: Node | None = None
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
        errors.check(symbol in self._makers, f"nothing in the graph has the size {symbol}")
        node, dim = self._makers[symbol]
        value = self.whole(node)
        self._symbols[symbol] = size = value if dim is None else self.call(aten.sym_size.int, (value, dim))
        return size

    @cached_property
    def _makers(self) -> dict[sympy.Basic, tuple[Node, int | None]]:
        """For each data-dependent size, the first node that yields it, and along which dimension; None: as a number."""
        makers: dict[sympy.Basic, tuple[Node, int | None]] = {}
        for node in (n for n in self._source.nodes if n.op == "call_function"):
            sizes = [(expression(node.meta["val"]), None)] if is_size(node) else []
            for size, dim in (*sizes, *((size, dim) for dim, size in enumerate(shape_of(node) or ()))):
                if is_unbacked(size):
                    makers.setdefault(size, (node, dim))
        return makers

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
        decided = [s for size in (*sizes, *(shape_of(node) or ())) for s in data_symbols(size) if s in self._makers]
        return tensors + [maker for maker, _ in map(self._makers.__getitem__, decided) if maker is not node]

    def _make(self, node: Node) -> Node:
        if node.op == "get_attr":
            return self.graph.get_attr(node.target)
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

    def at_once(self) -> Node:
        """The split of a loop that runs as one micro-batch."""
        if self._whole_split is None:
            self._whole_split = self.call(Split.at_once, (self.split,))
        return self._whole_split

    def draw(self, before: int) -> None:
        """Run the run-once nodes up to stage ``before``, in their original order."""
        for node in self._source.nodes:
            if node.op == "call_function" and is_impure(node) and self.propagation[node].stage <= before:
                self.whole(node)
