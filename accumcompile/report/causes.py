"""The cause of a barrier: the first operator that really needs the whole value, in words."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from torch.fx import Graph, Node

from ..ir.operands import is_size, shape_of
from ..ir.placement import Partial, Replicate
from ..planning.schedule import Loop, Schedule
from ..propagation.cost import elements_of
from ..propagation.placed import Need, Propagation
from .node_names import NodeNames, is_rearrangement, short
from .plan import BarrierFact

FINISHED = {"sum": "sum", "max": "maximum", "min": "minimum", "moments": "mean and variance", "any": "first"}


@dataclass(frozen=True)
class Barrier:
    """A value that is assembled because a later loop reads it, and the path to the operator that does."""

    node: Node
    loop: Loop
    way: tuple[Node, ...]


def barriers(plan: Schedule) -> Iterator[Barrier]:
    """The reduces and gathers whose results a later loop depends on."""
    propagation = plan.propagation
    read = read_between_loops(plan, (n for loop in plan.loops for n in loop.nodes))
    inside = {n for loop in plan.loops for n in loop.nodes}
    for loop in plan.loops:
        for root in loop.roots:
            if root in read and propagation[root].is_local:
                yield Barrier(root, loop, _way(propagation, root, inside, read))


def read_between_loops(plan: Schedule, readers: Iterator[Node], outputs: bool = False) -> dict[Node, None]:
    """Whole values that ``readers`` depend on: those assembled by loops, and those computed from them since."""
    propagation = plan.propagation
    values: dict[Node, None] = {}
    assembled = {n for loop in plan.loops for n in (*loop.roots, *loop.saved)}
    stack = [w for n in readers for w in (*propagation[n].whole, *propagation[n].sizes_from)]
    stack += [o for o in plan.outputs if outputs and isinstance(o, Node)]
    while stack:
        node = stack.pop()
        if node not in values:
            values[node] = None
            if node not in assembled:
                stack += [n for n in node.all_input_nodes if not is_size(n)]
                stack += propagation[node].sizes_from
    return values


def turning_whole(plan: Schedule, graph: Graph) -> Node | None:
    """The operator that takes the largest split operand (an input, or made in a loop) whole."""
    propagation = plan.propagation
    taking = {
        node: max((elements_of(need) for need in _taken_whole(propagation, node)), default=0)
        for node in graph.nodes
        if node.op == "call_function" and not is_size(node)
    }
    most = max(taking.values(), default=0)
    return next(node for node, size in taking.items() if size == most) if most else None


def _taken_whole(propagation: Propagation, node: Node) -> Iterator[Node]:
    """Batch-sized operands, themselves S or P, that a node takes whole."""
    for operand, need in propagation[node].takes():
        source = operand.node
        whole = source is not None and isinstance(need.placement, Replicate) and propagation[source].is_local
        if whole and any(propagation.batch.in_size(size) for size in shape_of(source) or ()):
            yield source


def _way(propagation: Propagation, root: Node, inside: set[Node], read: dict[Node, None]) -> tuple[Node, ...]:
    """The path from a value to the first operator that needs it whole, looking through casts and views."""
    seen = {root}
    open_: deque[tuple[Node, ...]] = deque([(root,)])
    through: tuple[Node, ...] = ()
    while open_:
        way = open_.popleft()
        for user in way[-1].users:
            counts = user in read or user in inside
            if user in seen or not counts or not _takes_whole(propagation, user, way[-1], inside):
                continue
            seen.add(user)
            whole = propagation[user].seed or not (propagation[user].is_local or _looks_through(user))
            if user in inside or whole:
                return (*way, user)
            through = through or (*way, user)
            open_.append((*way, user))
    return through or (root,)


def _takes_whole(propagation: Propagation, user: Node, value: Node, inside: set[Node]) -> bool:
    """Whether a node reads the assembled value, rather than its own micro-batch's part."""
    if is_size(user) or user not in inside or not propagation[value].is_local:
        return True
    return any(need.placement != propagation.placement(value) for need in _needs(propagation, user, value))


def _needs(propagation: Propagation, user: Node, value: Node) -> list[Need]:
    """The placements in which a node needs a value, and why."""
    return [need for operand, need in propagation[user].takes() if operand.node is value]


def _looks_through(node: Node) -> bool:
    """Whether a node only moves or casts data, so that the cause lies behind it."""
    return is_size(node) or is_rearrangement(node)


def fact(plan: Schedule, barrier: Barrier, node_names: NodeNames, value) -> BarrierFact:
    """The barrier as a fact for reports; ``value`` is the fact about its value."""
    propagation = plan.propagation
    kind = "reduce" if isinstance(propagation.placement(barrier.node), Partial) else "gather"
    path = [f"{value.name} {value.placement}", f"{kind} R"]
    path += [f"{short(n)} {_placement(propagation, n)}" for n in barrier.way[1:]]
    cause, over = words(propagation, barrier, node_names), barrier.loop.over
    return BarrierFact(kind, value, barrier.loop.stage, cause, tuple(path), str(over) if over is not None else "")


def _placement(propagation: Propagation, node: Node) -> str:
    """The placement of the result of an operator that took a whole value."""
    return str(propagation.placement(node)) if node in propagation else "R"


def words(propagation: Propagation, barrier: Barrier, node_names: NodeNames) -> str:
    """Why the whole value is needed."""
    placement = propagation.placement(barrier.node)
    if len(barrier.way) == 1:
        return "a later loop reads it"
    node, before = barrier.way[-1], barrier.way[-2]
    name, needs = node_names.function(node), _needs(propagation, node, before)
    if isinstance(placement, Partial):
        return f"{name} needs the finished {FINISHED.get(placement.op, placement.op)}"
    if propagation[node].is_local and any(isinstance(need.placement, Replicate) for need in needs):
        return f"every row of {name}'s result reads every sample"
    if propagation[node].is_local:
        return f"{name} reads it along another dimension than it was made"
    return f"{name}: " + next((need.cause for need in needs if need.cause), "it takes its operands whole")
