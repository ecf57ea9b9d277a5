"""Forms loops from a graph: the pass that turns placements and stages into a program.

Before::

    h = aten.mm.default(x, w)                        # S(0)
    loss = aten.sum.default(h)                       # P(sum)
    return (loss,)

After::

    spec = LoopSpec(("w",), (X(0, "x", "S(0)"),), (Carry("sum", torch.float32, torch.float32, "loss"),), ())
    loop_0 = accumulate_loop(self.loop_0, split, [w], [x], spec)
    loss = loop_0[0]
    return (loss,)

and in ``self.loop_0``, for each micro-batch: ``h = aten.mm.default(x, w); return (aten.sum.default(h),)``.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.carry import Carry
from accumcompile.ir.loop import LoopSpec, X, Y, accumulate_loop
from accumcompile.ir.operands import shape_of
from accumcompile.ir.placement import Partial, Shard
from accumcompile.planning.schedule import Loop
from accumcompile.program.body import Body
from accumcompile.program.bridges import Bridges
from accumcompile.rules.table import is_impure

from .manager import Planned

aten = torch.ops.aten


def form_loops(gm: GraphModule, context: Planned) -> GraphModule:
    """The program that computes what ``gm`` computes, micro-batch by micro-batch.

    Its first argument is a ``Split``; the others are ``gm``'s.
    """
    plan = context.schedule
    bridges = Bridges(gm.graph, plan.propagation)
    modules: dict[str, GraphModule] = {}
    for index, loop in enumerate(plan.loops):
        bridges.draw(loop.stage)
        name = f"loop_{index}"
        modules[name] = _form(bridges, loop, name, context.accumulator_dtype)
    bridges.draw(1 << 30)
    outputs = [bridges.whole(o) if isinstance(o, Node) else o for o in plan.outputs]
    bridges.graph.output(outputs)
    root = torch.nn.Module()
    for name, module in modules.items():
        root.add_module(name, module)
    for node in bridges.graph.find_nodes(op="get_attr"):
        if not hasattr(root, node.target):
            setattr(root, node.target, getattr(gm, node.target))
    bridges.graph.eliminate_dead_code(is_impure_node=lambda n: n.op in ("placeholder", "output") or is_impure(n))
    return GraphModule(root, bridges.graph, "Program")


def _form(bridges: Bridges, loop: Loop, name: str, wide: torch.dtype | None) -> GraphModule:
    """Form one loop: add its call and its results to the program, and return its body as a module."""
    body = Body(bridges, loop.nodes, loop.over)
    propagation = bridges.propagation
    sums = {r: p.op for r in loop.roots if isinstance(p := propagation.placement(r), Partial)}
    carried = {r: Carry.of(op, r.meta["val"].dtype, wide, r.name) for r, op in sums.items()}
    carried = {r: each.alone for r, each in carried.items()} if loop.at_once else carried
    shards = [r for r in loop.roots if isinstance(propagation.placement(r), Shard)]
    concatenated = list(dict.fromkeys([*shards, *loop.saved]))
    pieces = [body.unfolded(node) for node in concatenated]
    parts = [body.unrounded(r) if each.dtype != each.result else body.local[r] for r, each in carried.items()]
    module = body.finish(parts + [piece for piece, _ in pieces])
    spec = LoopSpec(
        tuple(const.source for const in body.consts.values()),
        tuple(X(x.dim, source.name, str(placement)) for (source, placement), x in body.xs.items()),
        tuple(carried.values()),
        tuple(Y(dim, node.name) for node, (_, dim) in zip(concatenated, pieces, strict=True)),
        propagation.granule(loop.over),
        bool(propagation.rows_of(loop.over).from_data),
    )
    split = bridges.split_of(loop)
    xs = [x.whole for x in body.xs.values()]
    call = bridges.call(accumulate_loop, (bridges.graph.get_attr(name), split, list(body.consts), xs, spec))
    for i, node in enumerate([*carried, *concatenated]):
        bridges.whole_of[node] = _assembled(bridges, call, i, node)
    return module


def _assembled(bridges: Bridges, call: Node, index: int, node: Node) -> Node:
    """The full value that a loop yields, in the shape that was traced."""
    item = bridges.call(operator.getitem, (call, index), like=node)
    item.meta["val"] = node.meta["val"]
    placement = bridges.propagation.placement(node)
    if isinstance(placement, Shard) and placement.outer != 1:
        item = bridges.call(aten.reshape.default, (item, bridges.sizes(shape_of(node) or ())), like=node)
    return item
