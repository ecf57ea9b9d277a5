"""Programs of one loop, made by hand, for the tests of the lowerings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, symbolic_trace

from accumcompile.ir.carry import Carry
from accumcompile.ir.loop import LoopSpec, ProgramCode, X, Y, accumulate_loop
from accumcompile.lowering.tracing import Tracing
from accumcompile.session.options import Options
from accumcompile.session.session import Session

aten, prims = torch.ops.aten, torch.ops.prims


def session(**options: Any) -> Session:
    """A session for tests; how a batch is split comes with each call of a program."""
    return Session(Options(**({"steps": 3} | options)), name="test")


def lower(program: GraphModule, session: Session) -> GraphModule:
    """The program, lowered as the session asks for."""
    return session.lowering.lower(program)


class Capture:
    """Stand-ins for a captured graph's values: sizes by name, such as "s" and "t"."""

    def __init__(self, **hints: int):
        self.trace = Tracing()
        self.symbols = {name: self.trace.symbol(hint, name) for name, hint in hints.items()}
        self.sizes = {n: self.trace.size(self.symbols[n], hint) for n, hint in hints.items()}

    def tensor(self, *shape: int | str, dtype: torch.dtype = torch.float32) -> Any:
        """A contiguous stand-in."""
        dims = [self.sizes[d] if isinstance(d, str) else d for d in shape]
        with self.trace.mode:
            return torch.empty(dims, dtype=dtype)


def body_of(fn: Callable, *metas: Any) -> GraphModule:
    """A body from a function of (rows, start, *consts, *xs) that calls ATen operators."""
    gm = symbolic_trace(fn)
    for node, meta in zip(gm.graph.find_nodes(op="placeholder")[2:], metas, strict=True):
        if meta is not None:
            node.meta["val"] = meta
    return gm


def program_of(
    body: GraphModule,
    consts: int,
    xs: Sequence[int],
    carry: Sequence[str],
    ys: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> GraphModule:
    """The program (split, *consts, *xs) -> carries, of this dtype, and ys; ``xs`` and ``ys`` are the sliced dims."""
    graph = Graph()
    graph.set_codegen(ProgramCode())
    split = graph.placeholder("split")
    inputs = [graph.placeholder(n.name) for n in body.graph.find_nodes(op="placeholder")[2:]]
    loop = graph.get_attr("loop_0")
    carries = tuple(Carry.of(op, dtype) for op in carry)
    spec = LoopSpec(tuple(n.name for n in inputs[:consts]), tuple(map(X, xs)), carries, tuple(map(Y, ys)))
    graph.output(graph.call_function(accumulate_loop, (loop, split, inputs[:consts], inputs[consts:], spec)))
    root = torch.nn.Module()
    root.add_module("loop_0", body)
    return GraphModule(root, graph)
