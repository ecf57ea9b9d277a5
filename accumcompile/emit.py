"""Writing the nodes of a program: its bridges, on full values, and the bodies of its loops, on a micro-batch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sympy
import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._sympy.functions import FloorDiv

from .arithmetic import emit_number
from .loop import Split
from .operands import Path, is_size, operands, rebuild
from .placement import Placement, R, Replicate, Shard, Size
from .propagate import Propagation, shape_of
from .rules.rule import Facts, Rule
from .rules.table import is_impure, rule_of
from .sizes import ROWS, expression

aten = torch.ops.aten
_SPELLING = {aten.view.default: aten.reshape.default}  # a slice, or an assembled value, may have other strides


class Writer:
    """Adds nodes to a graph and works out sizes in it."""

    def __init__(self, known: Propagation):
        self.known, self.batch = known, known.batch
        self.graph = Graph()
        self._sizes: dict[Size, Node | int] = {}

    def call(self, target: Any, args: Iterable[Any], kwargs: dict | None = None, like: Node | None = None) -> Node:
        """A new node, speaking for the source line of ``like``."""
        node = self.graph.call_function(_SPELLING.get(target, target), tuple(args), kwargs or {})
        if like is not None:
            node.meta |= {k: like.meta[k] for k in ("stack_trace", "seq_nr", "original_aten") if k in like.meta}
        return node

    def size(self, size: Size) -> Node | int:
        """A node (or number) for a size."""
        size = self.batch.unified(size)
        if not isinstance(size, sympy.Expr):
            return size
        if size not in self._sizes:
            self._sizes[size] = emit_number(self.graph, size, self.symbol)
        return self._sizes[size]

    def symbol(self, symbol: sympy.Symbol) -> Node:
        """The node that holds a symbol's value."""
        raise LookupError(symbol)

    # --- what rows of the table may ask; these answers are a bridge's

    def facts(self, node: Node) -> Facts:
        """What the node's rule is worked out from."""
        shapes = tuple(shape_of(o.node) for o in operands(node))
        return Facts(node, shapes, (shape_of(node),), self.batch)

    def placement(self, node: Node) -> Placement:
        """The placement of a node of the source graph, as it is written here."""
        return R

    def shape(self, node: Node) -> tuple[Size, ...]:
        """The shape that a node of the source graph has here."""
        return shape_of(node) or ()

    def offset(self, node: Node) -> Node | None:
        """Where a factory's result begins along its sharded dimension; None where it is not sharded."""
        return None

    def emit(self, node: Node, at: Callable[[Path, Any], Any]) -> Node:
        """A node of the source graph, with ``at`` giving what each leaf of its arguments is here."""
        rule = rule_of(node.target) or Rule()
        args, kwargs = rebuild(node, at)
        write = rule.local or _plainly
        return write(self, node, self._with_shape(rule, node, args), kwargs)

    def _with_shape(self, rule: Rule, node: Node, args: tuple) -> tuple:
        if rule.shape_arg is None:
            return args
        shape = self.sizes(self.shape(node))
        value = shape if isinstance(args[rule.shape_arg], (list, tuple)) else shape[0]
        return (*args[: rule.shape_arg], value, *args[rule.shape_arg + 1 :])

    def sizes(self, shape: Iterable[Size]) -> list[Node | int]:
        """A shape as arguments of a node."""
        return [self.size(s) for s in shape]


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


class Body(Writer):
    """The body of one loop: one micro-batch's values."""

    def __init__(self, bridges: Bridges, nodes: list[Node]):
        super().__init__(bridges.known)
        self.bridges, self.inside = bridges, set(nodes)
        self.rows = self.graph.placeholder("rows")
        self.start = self.graph.placeholder("start")
        self.consts: dict[Any, Node] = {}  # node of the program -> placeholder of the body
        self.xs: dict[tuple[Node, int], tuple[Node, Any]] = {}  # (source, dim) -> placeholder, value in the program
        self._sliced: dict[tuple[Node, Shard], Node] = {}
        self.local: dict[Node, Node] = {}
        for node in nodes:
            self.local[node] = self._emit(node)

    # --- what rows of the table may ask

    def placement(self, node: Node) -> Placement:
        return self.known.placement(node)

    def shape(self, node: Node) -> tuple[Size, ...]:
        return self.batch.local_shape(shape_of(node) or (), self.placement(node))

    def offset(self, node: Node) -> Node | None:
        placement = self.placement(node)
        if not isinstance(placement, Shard):
            return None
        per_sample = self.size(self.batch.local(shape_of(node)[placement.dim]).subs(ROWS, 1))
        return self.start if per_sample == 1 else self.call(aten.mul.Tensor, (self.start, per_sample))

    # --- nodes

    def _emit(self, node: Node) -> Node:
        needs = {o.path: need for o, need in zip(operands(node), self.known.needs[node], strict=True)}

        def at(path: Path, leaf: Any) -> Any:
            if not isinstance(leaf, Node):
                return leaf
            return self._number(leaf) if is_size(leaf) else self._operand(leaf, needs[path].placement)

        copy = self.emit(node, at)
        if isinstance(node.meta.get("val"), torch.Tensor):
            copy.meta["local_shape"] = self.shape(node)
        return copy

    def _operand(self, node: Node, need: Placement) -> Node:
        value = self.known.values[node]
        is_here = node in self.local and not isinstance(need, Replicate)
        if is_here and (len(value.placements) > 1 or value.placement == need):
            return self.local[node]
        return self.slice(node, need) if isinstance(need, Shard) else self._const(node)

    def _const(self, node: Node) -> Node:
        rule = rule_of(node.target)
        if rule is not None and rule.fill is not None:
            args, kwargs = rebuild(node, lambda path, leaf: self._number(leaf) if isinstance(leaf, Node) else leaf)
            return self.call(node.target, args, kwargs, like=node)
        return self.const(self.bridges.whole(node), node.name, node.meta)

    def const(self, value: Any, name: str, meta: dict) -> Any:
        """A placeholder for a value that is the same in every micro-batch."""
        if not isinstance(value, Node):
            return value
        if value not in self.consts:
            self.consts[value] = holder = self._holder(name)
            holder.meta |= {k: meta[k] for k in ("val", "stack_trace", "desc") if k in meta}
        return self.consts[value]

    def _holder(self, name: str) -> Node:
        """A placeholder whose name no other has."""
        holder = self.graph.placeholder(name)
        holder.target = holder.name
        return holder

    def slice(self, node: Node, placement: Shard) -> Node:
        """The micro-batch's part of a value that exists whole."""
        key = (node, placement)
        if key not in self._sliced:
            self._sliced[key] = self._slice(node, placement)
        return self._sliced[key]

    def _slice(self, node: Node, placement: Shard) -> Node:
        whole = self.bridges.whole(node)
        shape = shape_of(node)
        dim = placement.dim
        if placement.outer != 1:
            whole = self.bridges.call(aten.reshape.default, (whole, self.bridges.sizes(unfolded(shape, placement))))
            dim += 1
        holder = self._holder(node.name)
        holder.meta |= {k: node.meta[k] for k in ("val", "stack_trace", "desc") if k in node.meta}
        self.xs[(node, placement)] = (holder, whole, dim)
        local = self.batch.local_shape(shape, placement)
        holder.meta["local_shape"] = local if placement.outer == 1 else self._unfolded_local(shape, placement)
        if placement.outer == 1:
            return holder
        return self.call(aten.reshape.default, (holder, self.sizes(local)))

    def _unfolded_local(self, shape: tuple, placement: Shard) -> tuple[Size, ...]:
        local = self.batch.local_shape(shape, placement)
        return unfolded(local, placement)

    def unfolded(self, node: Node) -> tuple[Node, int]:
        """A local value as the loop concatenates it: its sharded dimension split into (outer, rest)."""
        placement = self.placement(node)
        if placement.outer == 1:
            return self.local[node], placement.dim
        shape = unfolded(self.shape(node), placement)
        return self.call(aten.reshape.default, (self.local[node], self.sizes(shape))), placement.dim + 1

    def _number(self, node: Node) -> Any:
        """A number used as a value: the full batch's."""
        value = node.meta["val"]
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            expr = value.node.expr
            return self.size(expr) if isinstance(value, torch.SymInt) else self.const(
                self.bridges.size(expr), node.name, node.meta
            )
        return value

    def symbol(self, symbol: sympy.Symbol) -> Node:
        if symbol == ROWS:
            return self.rows
        return self.const(self.bridges.symbol(symbol), str(symbol), {"val": symbol})

    def finish(self, outputs: list[Node]) -> GraphModule:
        """The body with its placeholders in order: rows, start, consts, xs."""
        holders = [self.rows, self.start, *self.consts.values(), *(holder for holder, _, _ in self.xs.values())]
        graph, new = Graph(), {}
        for node in holders + [n for n in self.graph.nodes if n.op != "placeholder"]:
            new[node] = graph.node_copy(node, new.__getitem__)
        graph.output(tuple(new[o] for o in outputs))
        graph.eliminate_dead_code()
        return GraphModule(torch.nn.Module(), graph)


def _plainly(writer: Writer, node: Node, args: tuple, kwargs: dict) -> Node:
    return writer.call(node.target, args, kwargs, like=node)


def unfolded(shape: tuple[Size, ...], placement: Shard) -> tuple[Size, ...]:
    """A shape with its sharded dimension split into (outer, rest)."""
    dim, outer = placement.dim, placement.outer
    rest = sympy.cancel(sympy.sympify(shape[dim]) / outer)
    rest = rest if sympy.fraction(rest)[1] == 1 else FloorDiv(sympy.sympify(shape[dim]), outer)
    return (*shape[:dim], outer, rest, *shape[dim + 1 :])
