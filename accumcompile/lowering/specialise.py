"""Specialises a graph that is generic in its sizes into one that Inductor compiles for the arguments at hand.

Numbers in the arguments' specs are folded into the graph; each symbolic size gets a fresh symbol, shared by equal
expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ..diagnostics import errors, where
from ..ir.binding import Binding, number, traced, value
from ..ir.operands import data_symbols
from ..ir.placement import Size
from ..ir.sizes import ROWS
from ..ir.torch_api import OpOverload
from .specs import SCALED, ArgumentSpec, Array, Floating, Literal, Symbolic
from .tracing import Tracing


@dataclass
class Specialised:
    """A graph specialised for one tuple of specs.

    Its arguments are the values of ``symbols``, then the original arguments at the positions ``remaining``. (Every
    symbol is an argument, because Inductor's disk cache checks guards only on symbols that are.)
    """

    gm: GraphModule
    trace: Tracing
    fresh: dict[sympy.Expr, sympy.Expr]  # the captured graph's expression -> this graph's
    sizes: Binding
    remaining: list[int] = field(default_factory=list)

    @property
    def symbols(self) -> dict[sympy.Symbol, sympy.Expr]:
        """Each symbol of this graph, and the captured graph's expression that it stands for."""
        return {ours: theirs for theirs, ours in self.fresh.items() if isinstance(ours, sympy.Symbol)}

    def size(self, dim: Size) -> int | torch.SymInt:
        """A size of the captured graph as a size of this one."""
        ours = dim.xreplace(self.fresh) if isinstance(dim, sympy.Expr) else dim
        return self.trace.size(ours, value(dim, self.sizes) or 0)

    def fake(self, spec: ArgumentSpec) -> Any:
        """A fake value for an argument."""
        if isinstance(spec, Symbolic):
            return self.size(spec.expr)
        if isinstance(spec, Floating):
            return self.trace.empty((), (), torch.float64, torch.device("cpu"))
        assert isinstance(spec, Array)
        shape, stride = [self.size(d) for d in spec.shape], [self.size(d) for d in spec.stride]
        return self.trace.empty(shape, stride, spec.dtype, spec.device)

    def guard(self) -> Callable[[Sequence[int]], bool] | None:
        """A check of the assumptions about the symbols, given their values in the order of ``symbols``."""
        return self.trace.guard({ours: number(theirs, self.sizes) for ours, theirs in self.symbols.items()})


def specialise(graph: Graph, root: torch.nn.Module, specs: Sequence[ArgumentSpec], sizes: Binding) -> Specialised:
    """Copy ``graph`` for arguments of these ``specs``, with a fake value in each node's metadata."""
    trace = Tracing()
    done = Specialised(GraphModule(root, Graph()), trace, _fresh_symbols(specs, sizes, trace), sizes)
    copy = _Copy(done, Graph(), root)
    arguments = {theirs: copy.argument(f"size_{ours}", done.size(theirs)) for ours, theirs in done.symbols.items()}
    for position, (holder, spec) in enumerate(zip(graph.find_nodes(op="placeholder"), specs, strict=True)):
        if isinstance(spec, Literal):
            copy.env[holder] = spec.value
        elif isinstance(spec, Symbolic) and spec.expr in arguments:
            copy.env[holder] = arguments[spec.expr]
        elif holder.users:
            done.remaining.append(position)
            copy.env[holder] = copy.argument(holder.name, done.fake(spec), holder.meta)
    with trace.running():
        for node in graph.nodes:
            copy.node(node)
    done.gm = GraphModule(root, copy.graph, "Body")
    return done


def _fresh_symbols(specs: Sequence[ArgumentSpec], sizes: Binding, trace: Tracing) -> dict[sympy.Expr, sympy.Expr]:
    """Fresh symbols for the sizes in the specs: for each bare symbol, and each expression not determined by those."""
    dims = [d for s in specs if isinstance(s, Array) for d in (*s.shape, *s.stride)]
    dims += [s.expr for s in specs if isinstance(s, Symbolic)]
    exprs = list(dict.fromkeys(d for d in dims if isinstance(d, sympy.Expr)))
    bare = [e for e in exprs if isinstance(e, sympy.Symbol)]
    fresh: dict[sympy.Expr, sympy.Expr] = {e: trace.symbol(sizes[e], str(e)) for e in bare}
    for i, expr in enumerate(exprs):
        if not expr.free_symbols <= fresh.keys():
            fresh[expr] = trace.symbol(number(expr, sizes), f"expr{i}")
    return fresh


class _Copy:
    """Copies nodes one by one: folds numbers, runs operators on fake tensors, and checks shapes."""

    def __init__(self, done: Specialised, graph: Graph, root: torch.nn.Module):
        self.done, self.graph, self.root = done, graph, root
        self.env: dict[Node, Any] = {}

    def argument(self, name: str, value: Any, meta: dict | None = None) -> Node:
        """A new argument, with a fake value."""
        new = self.graph.placeholder(name)
        new.meta |= (meta or {}) | {"val": value}
        return new

    def node(self, node: Node) -> None:
        if node.op == "call_function":
            self.env[node] = self._call(node)
        elif node.op == "get_attr":
            self.env[node] = self._get_attr(node)
        elif node.op == "output":
            outputs: Any = map_arg(node.args[0], self.env.__getitem__)
            self.graph.output(tuple(outputs)).meta |= node.meta
        else:
            errors.check(node.op == "placeholder", f"a {node.op} node in a graph", str(node.target))

    def _call(self, node: Node) -> Any:
        target: Any = node.target
        args, kwargs = map_arg((node.args, node.kwargs), self.env.__getitem__)
        if target in SCALED and any(_is_zero_dim_factor(a) for a in args):
            target = SCALED[target]
        errors.check(not _mutates(target), "a loop's body changes a tensor in place", str(node.format_node()))
        values = map_arg((args, kwargs), lambda n: n.meta["val"])
        result = target(*values[0], **values[1])
        if isinstance(result, (int, float, bool)):
            return result
        new = self.graph.call_function(target, args, kwargs)
        new.meta |= node.meta | {"val": result}
        self._check(node, result)
        return new

    def _get_attr(self, node: Node) -> Node:
        new = self.graph.get_attr(str(node.target))
        value = getattr(self.root, str(node.target))
        new.meta |= node.meta
        new.meta["val"] = self.done.trace.mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
        return new

    def _check(self, node: Node, result: Any) -> None:
        expected = node.meta.get("local_shape")
        if expected is not None and isinstance(result, torch.Tensor):
            shape = [None if data_symbols(s) else traced(s) for s in result.shape]
            check_shape(node, shape, self.done.sizes)


def _is_zero_dim_factor(arg: Any) -> bool:
    if not isinstance(arg, Node) or arg.op != "placeholder":
        return False
    value = arg.meta["val"]
    return isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype == torch.float64


def _mutates(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def check_shape(node: Node, shape: Sequence[int | None], sizes: Binding) -> None:
    """Check that a node has the shape that its placement predicts; unknown sizes are not compared."""
    predicted = [value(d, sizes) for d in node.meta["local_shape"]]
    agree = len(predicted) == len(shape) and all(
        None in (p, n) or p == n for p, n in zip(predicted, shape, strict=True)
    )
    if not agree:
        frame = where.user_frame(node.meta.get("stack_trace") or "")
        what = f"{node.format_node()} has shape {tuple(shape)} in a micro-batch of {sizes.get(ROWS)} rows"
        errors.check(False, what, f"its placement predicts {tuple(map(str, node.meta['local_shape']))}", frame)
