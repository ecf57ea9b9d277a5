"""Invariants that hold after every pass, as a table: a row says what holds, for which nodes, and how it is checked.

A violated row is an internal bug, found where it was introduced and not where it does harm. The form follows tinygrad's
``spec.py``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import sympy
from torch.fx import Graph, GraphModule, Node

from accumcompile.diagnostics import errors
from accumcompile.diagnostics.where import user_frame
from accumcompile.ir.carry import REDUCTIONS
from accumcompile.ir.loop import LoopSpec, accumulate_loop
from accumcompile.ir.operands import leaves, shapes_of
from accumcompile.ir.placement import Partial, Shard
from accumcompile.ir.sizes import SYMBOLIC
from accumcompile.ir.torch_api import OpOverload
from accumcompile.planning.schedule import Loop, Schedule
from accumcompile.propagation.placed import Placed, Propagation
from accumcompile.rules.table import is_impure


class Invariant(NamedTuple):
    """One fact: what it says, which things it is about, and whether it holds for one of them in its container."""

    what: str
    of: Callable[[Any], bool]
    holds: Callable[[Any, Any], bool]


# --- what rows apply to


def _is_call(node: Node) -> bool:
    return node.op == "call_function"


def _is_loop(node: Node) -> bool:
    return node.target is accumulate_loop


def _is_item(node: Node) -> bool:
    return node.target is operator.getitem


def _any(thing: object) -> bool:
    return True


# --- nodes of a captured graph


def _has_value(node: Node, gm: GraphModule) -> bool:
    return "val" in node.meta


def _changes_nothing_that_is_read_later(node: Node, gm: GraphModule) -> bool:
    later = (user for changed in _changed_by(node) for user in changed.users if node < user)
    return not any(_is_call(user) and not _changed_by(user) for user in later)


def _changed_by(node: Node) -> list[Node]:
    """The operands that a node changes in place, by its schema."""
    if not isinstance(node.target, OpOverload):
        return []
    arguments = zip(node.target._schema.arguments, node.args, strict=False)
    return [
        a for argument, a in arguments if isinstance(a, Node) and argument.alias_info and argument.alias_info.is_write
    ]


def _reads_one_of_many(node: Node, gm: GraphModule) -> bool:
    source, index = node.args
    value = source.meta.get("val")
    return not isinstance(value, (tuple, list)) or -len(value) <= index < len(value)


GRAPH = (
    Invariant("a node has a value", _is_call, _has_value),
    Invariant("a result that is read is one that there is", _is_item, _reads_one_of_many),
    Invariant("what is changed in place is not read afterwards", _is_call, _changes_nothing_that_is_read_later),
)


# --- placed nodes


def _has_a_placement_for_each(placed: Placed, propagation: Propagation) -> bool:
    return len(placed.results) == len(shapes_of(placed.node)) and len(placed.needs) == len(placed.operands)


def _fits_the_shape(placed: Placed, propagation: Propagation) -> bool:
    return all(
        not isinstance(p, Shard)
        or (s is not None and p.dim < len(s) and propagation.rows_of(p.over).per_sample(s[p.dim], p.outer) is not None)
        for p, s in zip(placed.placements, shapes_of(placed.node), strict=True)
    )


def _is_reduced_somehow(placed: Placed, propagation: Propagation) -> bool:
    return all(p.op in REDUCTIONS for p in placed.placements if isinstance(p, Partial))


def _comes_in_time(placed: Placed, propagation: Propagation) -> bool:
    return all(propagation[operand].stage <= placed.stage for operand in placed.local)


def _is_had_as_needed(placed: Placed, propagation: Propagation) -> bool:
    """R -> S is a slice, and P or S -> R a barrier; a partial is needed only of a value with that same placement."""
    for operand, need in placed.takes():
        if operand.node is not None and isinstance(need.placement, Partial):
            source = propagation[operand.node]
            if not source.has_many and source.placement != need.placement:
                return False
    return True


PLACED = (
    Invariant("every result and operand has a placement", _any, _has_a_placement_for_each),
    Invariant("a shard lies along a dimension that holds the batch", _any, _fits_the_shape),
    Invariant("a partial value is reduced by an operator of the table", _any, _is_reduced_somehow),
    Invariant("what is taken from the own micro-batch is made no later", _any, _comes_in_time),
    Invariant("nothing is made partial where it is taken", _any, _is_had_as_needed),
)


# --- loops of a schedule


def _yields_what_it_computes(loop: Loop, plan: Schedule) -> bool:
    return set(loop.nodes).issuperset((*loop.roots, *loop.saved))


def _saves_shards(loop: Loop, plan: Schedule) -> bool:
    return all(isinstance(plan.propagation.placement(n), Shard) for n in loop.saved)


def _finds_what_it_takes(loop: Loop, plan: Schedule) -> bool:
    """A local operand is computed in the loop, is an input, or exists whole before it."""
    there = {n for each in _before(loop, plan) for n in (*each.roots, *each.saved)} | {*loop.nodes, *loop.remade}
    taken = (o for n in loop.nodes for o in plan.propagation[n].local)
    return all(o in there or o.op != "call_function" for o in taken)


def _can_be_made_before(loop: Loop, plan: Schedule) -> bool:
    placed = plan.propagation.placed
    return all(placed[n].remade and (placed[n].whole_stage or 0) <= loop.stage for n in loop.remade)


def _comes_in_turn(loop: Loop, plan: Schedule) -> bool:
    return all((e.stage, e.over) != (loop.stage, loop.over) and e.stage <= loop.stage for e in _before(loop, plan))


def _before(loop: Loop, plan: Schedule) -> Iterable[Loop]:
    return takewhile(lambda other: other is not loop, plan.loops)


SCHEDULE = (
    Invariant("a loop yields what it computes", _any, _yields_what_it_computes),
    Invariant("only shards are saved", _any, _saves_shards),
    Invariant("a loop computes what it reads, or it is there", _any, _finds_what_it_takes),
    Invariant("what is computed whole before a loop needs nothing that comes later", _any, _can_be_made_before),
    Invariant("loops come in the order of their stages", _any, _comes_in_turn),
)


# --- nodes of a program and of the bodies in it


def _has_no_symbol(node: Node, gm: GraphModule) -> bool:
    return not any(isinstance(leaf, (*SYMBOLIC, sympy.Basic)) for _, leaf in leaves(node))


def _fits_its_spec(node: Node, gm: GraphModule) -> bool:
    body, _, consts, xs, spec = node.args
    graph = gm.get_submodule(body.target).graph
    given = len(graph.find_nodes(op="placeholder")) - 2  # rows and start
    taken, yielded = (len(consts), len(xs)), (len(spec.carry), len(spec.ys))
    if taken != (len(spec.consts), len(spec.xs)) or sum(taken) != given:
        return False
    return sum(yielded) == len(graph.output_node().args[0])


def _carries_what_is_known(node: Node, gm: GraphModule) -> bool:
    spec: LoopSpec = node.args[-1]
    return all(each.op in REDUCTIONS for each in spec.carry)


def _slices_what_is_there(node: Node, gm: GraphModule) -> bool:
    values = [x.meta.get("val") for x in node.args[3]]
    spec: LoopSpec = node.args[-1]
    return all(v is None or x.dim < v.dim() for v, x in zip(values, spec.xs, strict=True))


def _is_taken_as_items(node: Node, gm: GraphModule) -> bool:
    return all(_is_item(user) for user in node.users)


def _can_run_again(node: Node, gm: GraphModule) -> bool:
    return not is_impure(node)


PROGRAM = (
    Invariant("a size is a number or a node", _is_call, _has_no_symbol),
    Invariant("a loop takes and yields what its spec says", _is_loop, _fits_its_spec),
    Invariant("a carry is reduced by an operator of the table", _is_loop, _carries_what_is_known),
    Invariant("what is sliced has that dimension", _is_loop, _slices_what_is_there),
    Invariant("of a loop only single values are read", _is_loop, _is_taken_as_items),
    Invariant("what is changed in place is not read afterwards", _is_call, _changes_nothing_that_is_read_later),
)
BODY = (
    Invariant("a size is a number or a node", _is_call, _has_no_symbol),
    Invariant("what draws or changes something is in no body", _is_call, _can_run_again),
    Invariant("bodies hold no loops", _any, lambda node, gm: not _is_loop(node)),
)


# --- checking


def check_graph(step: str, gm: GraphModule, seconds: float = 0.0) -> None:
    """An observer of passes over a captured graph."""
    _check(GRAPH, gm.graph.nodes, gm, step)


def check_program(step: str, gm: GraphModule, seconds: float = 0.0) -> None:
    """An observer of passes over a program."""
    _check(PROGRAM, gm.graph.nodes, gm, step)
    for body in _bodies(gm):
        _check(BODY, body.graph.nodes, body, step)


def check_placed(propagation: Propagation) -> None:
    """Check the result of propagation."""
    _check(PLACED, propagation, propagation, "propagate")


def check_schedule(plan: Schedule) -> None:
    """Check a schedule, after the last decision."""
    _check(SCHEDULE, plan.loops, plan, "schedule")


def _bodies(gm: GraphModule) -> Iterable[GraphModule]:
    return (child for child in gm.children() if isinstance(child, GraphModule))


def _check(rows: Sequence[Invariant], things: Iterable[Any] | Graph, within: Any, step: str) -> None:
    for thing in things:
        for row in rows:
            if row.of(thing) and not row.holds(thing, within):
                node = thing if isinstance(thing, Node) else getattr(thing, "node", None)
                frame = user_frame(node.meta.get("stack_trace")) if node is not None else None
                said = node.format_node() if node is not None else str(thing)
                errors.check(False, f"after {step}, {row.what}", str(said), frame)
