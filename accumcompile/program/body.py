"""The body of one loop: the computation on one micro-batch's values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import sympy
import torch
from torch.fx import Graph, GraphModule, Node

from ..ir.operands import Path, is_size, rebuild, shape_of
from ..ir.origin import PLACE
from ..ir.placement import Placement, R, Replicate, Shard, Size
from ..ir.sizes import ROWS, unfolded
from ..rules.table import RULES, is_constant, rule_of
from .bridges import Bridges
from .writer import Writer

aten = torch.ops.aten


class Const(NamedTuple):
    """A value that the body takes whole."""

    holder: Node  # a placeholder of the body
    source: str  # its name in the source graph


class Slice(NamedTuple):
    """A value of which the body reads the micro-batch's slice along ``dim`` of ``whole``."""

    holder: Node  # a placeholder of the body
    whole: Any  # the full value, in the program
    dim: int


class Body(Writer):
    """The graph of one loop's body, written node by node."""

    def __init__(self, bridges: Bridges, nodes: Iterable[Node], over: sympy.Symbol | None = None):
        super().__init__(bridges.propagation, over)
        self.bridges = bridges
        self.rows = self.graph.placeholder("rows")
        self.start = self.graph.placeholder("start")
        self.consts: dict[Any, Const] = {}  # keyed by the node of the program
        self.xs: dict[tuple[Node, Shard], Slice] = {}
        self._sliced: dict[tuple[Node, Shard], Node] = {}
        self.local: dict[Node, Node] = {}
        for node in nodes:
            self.local[node] = self._emit(node)

    # --- queries that rules may make

    def placement(self, node: Node) -> Placement:
        """The placement that propagation found."""
        return self.propagation.placement(node)

    def shape(self, node: Node) -> tuple[Size, ...]:
        """The micro-batch's shape."""
        return self.batch.local_shape(shape_of(node) or (), self.placement(node))

    def offset(self, node: Node) -> Node | None:
        """The micro-batch's first index along the sharded dimension, within each ``outer``; None if not sharded."""
        placement = self.placement(node)
        if not isinstance(placement, Shard):
            return None
        rows, samples = self.batch.owned((shape_of(node) or ())[placement.dim], placement.outer)
        first = self.start if rows == 1 else self.call(aten.mul.Tensor, (self.start, self.size(rows)))
        return first if samples == 1 else self.call(aten.div.Tensor_mode, (first, samples), {"rounding_mode": "floor"})

    # --- nodes

    def _emit(self, node: Node, write: Callable | None = None) -> Node:
        needs = {operand.path: need for operand, need in self.propagation[node].takes()}

        def at(path: Path, leaf: Any) -> Any:
            if not isinstance(leaf, Node):
                return leaf
            return self._number(leaf) if is_size(leaf) else self._operand(leaf, needs[path].placement)

        copy = self.emit(node, at, write)
        if copy is not None and isinstance(node.meta.get("val"), torch.Tensor):
            copy.meta |= {
                "local_shape": self.shape(node),
                "dtype": node.meta["val"].dtype,
                PLACE: self.propagation[node].place,
            }
        return copy

    def unrounded(self, node: Node) -> Node:
        """A half-precision partial sum before it is rounded, if its operator computes it in a wider dtype.

        Then only the finished sum is rounded, as in the full batch; and a part may be too large for float16 although
        the sum is not.
        """
        rule = rule_of(node.target)
        wider = self._emit(node, rule.unrounded) if rule is not None and rule.unrounded is not None else None
        return self.local[node] if wider is None else wider

    def _operand(self, node: Node, need: Placement) -> Node:
        placed = self.propagation[node]
        is_here = node in self.local and not isinstance(need, Replicate)
        if is_here and (placed.has_many or placed.placement == need):
            return self.local[node]
        return self.slice(node, need) if isinstance(need, Shard) else self._const(node)

    def _const(self, node: Node) -> Node:
        if is_constant(node):
            return self._filled(node, R)
        return self.const(self.bridges.whole(node), node.name, node.meta)

    def _filled(self, node: Node, placement: Placement) -> Node:
        """A constant fill, created here in the local shape."""
        args, kwargs = rebuild(node, lambda path, leaf: self._number(leaf) if isinstance(leaf, Node) else leaf)
        local = self.batch.local_shape(shape_of(node) or (), placement)
        position = RULES[node.target].shape_arg
        args = args if position is None else self.with_shape(args, position, local)
        copy = self.call(node.target, args, kwargs, like=node)
        copy.meta["local_shape"] = local
        return copy

    def const(self, value: Any, name: str, meta: dict) -> Any:
        """A placeholder for a value that is the same in every micro-batch."""
        if not isinstance(value, Node):
            return value
        if value not in self.consts:
            holder = self._holder(name)
            holder.meta |= {k: meta[k] for k in ("val", "stack_trace", "desc") if k in meta}
            self.consts[value] = Const(holder, name)
        return self.consts[value].holder

    def _holder(self, name: str) -> Node:
        """A placeholder with a unique name."""
        holder = self.graph.placeholder(name)
        holder.target = holder.name
        return holder

    def slice(self, node: Node, placement: Shard) -> Node:
        """The micro-batch's slice of a value that exists whole."""
        key = (node, placement)
        if key not in self._sliced:
            self._sliced[key] = self._slice(node, placement)
        return self._sliced[key]

    def _slice(self, node: Node, placement: Shard) -> Node:
        if is_constant(node):
            return self._filled(node, placement)
        whole, full = self.bridges.whole(node), shape_of(node) or ()
        local, dim = self.batch.local_shape(full, placement), placement.dim
        holder = self._holder(node.name)
        holder.meta |= {k: node.meta[k] for k in ("val", "stack_trace", "desc") if k in node.meta}
        if placement.outer == 1:
            holder.meta["local_shape"] = local
            self.xs[(node, placement)] = Slice(holder, whole, dim)
            return holder
        holder.meta["local_shape"] = unfolded(local, placement)
        whole = self.bridges.call(aten.reshape.default, (whole, self.bridges.sizes(unfolded(full, placement))))
        self.xs[(node, placement)] = Slice(holder, whole, dim + 1)
        return self.call(aten.reshape.default, (holder, self.sizes(local)))

    def unfolded(self, node: Node) -> tuple[Node, int]:
        """A local value as the loop concatenates it: its sharded dimension split into (outer, rest)."""
        placement = self.placement(node)
        assert isinstance(placement, Shard)
        if placement.outer == 1:
            return self.local[node], placement.dim
        shape = unfolded(self.shape(node), placement)
        return self.call(aten.reshape.default, (self.local[node], self.sizes(shape))), placement.dim + 1

    def _number(self, node: Node) -> Any:
        """A number used as a value; it is the full batch's."""
        value = node.meta["val"]
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return value
        if isinstance(value, torch.SymInt):
            return self.size(value.node.expr)
        return self.const(self.bridges.size(value.node.expr), node.name, node.meta)

    def symbol(self, symbol: sympy.Symbol) -> Node:
        """The rows of the micro-batch, or a size of the full batch as a constant."""
        if symbol == ROWS:
            return self.rows
        return self.const(self.bridges.symbol(symbol), str(symbol), {"val": symbol})

    def finish(self, outputs: list[Node]) -> GraphModule:
        """The body with its placeholders in order: rows, start, consts, xs."""
        consts, xs = ([each.holder for each in taken.values()] for taken in (self.consts, self.xs))
        holders = [self.rows, self.start, *consts, *xs]
        graph = Graph()
        new: dict[Node, Node] = {}
        for node in holders + [n for n in self.graph.nodes if n.op != "placeholder"]:
            new[node] = graph.node_copy(node, new.__getitem__)
        graph.output(tuple(new[o] for o in outputs))
        graph.eliminate_dead_code()
        return GraphModule(torch.nn.Module(), graph)
