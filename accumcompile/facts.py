"""The facts of a plan, for people: read off the schedule and the program, never used to run anything."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from .placement import Partial, Replicate
from .plan import BarrierFact, LoopFact, Plan, ValueFact
from .propagate import Propagation, shape_of
from .stages import Schedule, size_sources, whole_operands
from .where import user_frame


def plan_facts(road: str, plan: Schedule, program: GraphModule) -> Plan:
    """Everything that ``explain`` tells of one graph."""
    known = plan.propagation
    loops = tuple(_loop(known, name, meta) for name, meta in program.meta["loops"].items())
    kept = tuple(value_fact(known, o) for o in plan.outputs if isinstance(o, Node) and _is_sharded(known, o))
    return Plan(road, known.batch.symbol, known.granule, loops, tuple(_barriers(plan)), kept)


def _is_sharded(known: Propagation, node: Node) -> bool:
    return str(known.placement(node)).startswith("S") and node.op == "call_function"


def value_fact(known: Propagation, node: Node) -> ValueFact:
    """A value of the source graph."""
    frame = user_frame(node.meta.get("stack_trace", "") or "")
    value = node.meta.get("val")
    return ValueFact(
        node.name,
        shape_of(node) or (),
        value.dtype if isinstance(value, torch.Tensor) else None,
        str(known.values[node].placements[0]) if node in known.values else "R",
        frame.where if frame else "",
        frame.code if frame else "",
    )


def _loop(known: Propagation, name: str, meta: dict) -> LoopFact:
    loop = meta["loop"]
    return LoopFact(
        loop.stage,
        tuple(_const_fact(node) for node in meta["consts"]),
        tuple(value_fact(known, node) for node, _ in meta["xs"]),
        tuple(value_fact(known, node) for node in meta["carried"]),
        tuple(value_fact(known, node) for node in meta["kept"]),
        len(loop.nodes),
        loop.at_once,
    )


def _const_fact(node: Node) -> ValueFact:
    value = node.meta.get("val")
    dtype = value.dtype if isinstance(value, torch.Tensor) else None
    return ValueFact(node.name, shape_of(node) or (), dtype, "R")


def _barriers(plan: Schedule):
    """What is assembled after one loop because a later one reads it."""
    known = plan.propagation
    awaited = _awaited(plan)
    for loop in plan.loops:
        for root in loop.roots:
            if root in awaited:
                kind = "reduce" if isinstance(known.placement(root), Partial) else "gather"
                fact = value_fact(known, root)
                cause = awaited[root]
                path = (f"{root.name} {known.placement(root)}", f"{kind} R", cause)
                yield BarrierFact(kind, fact, loop.stage, cause, path)


def _awaited(plan: Schedule) -> dict[Node, str]:
    """The assembled values that bodies of loops are computed from, each with the operator that needed it whole."""
    known, found, seen = plan.propagation, {}, set()
    roots = {root for loop in plan.loops for root in loop.roots}
    stack = [(w, str(n.target)) for loop in plan.loops for n in loop.nodes for w in (*whole_operands(known, n), *size_sources(n))]
    while stack:
        node, cause = stack.pop()
        if node in roots and not isinstance(known.values[node].placements[0], Replicate):
            found.setdefault(node, cause)
        elif node not in seen:
            seen.add(node)
            stack += [(source, str(node.target)) for source in node.all_input_nodes]
    return found
