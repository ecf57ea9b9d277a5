"""Values that several loops need: saved by the earlier loop, or recomputed by the later one.

Saving everything takes the full batch's memory; recomputing everything takes time quadratic in the number of loops. So
an expensive value is recomputed in at most one loop: the one that would otherwise have to load the most bytes. For the
loss, an embedding is saved and its tower is not run again; for the backward, the tower is run again and its activations
are not saved. Every other loop loads the smallest cut, in bytes, between what was computed before and what it yields.
Cheap operators may be recomputed in any loop. Values whose rounding must not differ are not recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import networkx
from torch.fx import Node

from ..ir.operands import is_tensor, is_view
from ..ir.placement import Partial, Shard
from ..propagation.cost import bytes_of
from ..propagation.placed import Propagation
from ..rules.table import rule_of
from .schedule import Loop, Schedule

_AGAIN = 16  # recomputing this many bytes costs as much as saving one
_UNSAVABLE = 1 << 62  # bytes: the capacity of a value that cannot be saved, such as a partial sum


def choose_saved(plan: Schedule) -> Schedule:
    """The schedule with the nodes of every loop, and the values that it saves for later loops."""
    propagation, order = plan.propagation, {node: i for i, node in enumerate(plan.graph.nodes)}
    again = _loops_to_compute_again_in(plan)
    maker: dict[Node, int] = {}  # the last loop that computed a value
    whole: set[Node] = set()  # S values that exist for the full batch
    saved: list[list[Node]] = [[] for _ in plan.loops]
    loops: list[Loop] = []
    for k, loop in enumerate(plan.loops):
        needed = propagation.closure(loop.roots, whole)
        earlier = needed.intersection(maker)
        forbidden = {n for n in earlier if not _is_cheap(n) and again.get(n) != k}
        loaded = _smallest_cut(
            propagation, needed, loop.roots, earlier, forbidden | _pinned(propagation, needed, maker)
        )
        for node in sorted(loaded, key=order.__getitem__):
            saved[maker[node]].append(node)
        whole |= loaded
        roots = tuple(root for root in loop.roots if root not in whole)
        body = propagation.closure(roots, whole)
        loops.append(replace(loop, roots=roots, nodes=tuple(sorted(body, key=order.__getitem__))))
        maker |= dict.fromkeys(body, k)
        whole |= _whole_after(propagation, roots)
    return replace(
        plan, loops=tuple(replace(loop, saved=tuple(chosen)) for loop, chosen in zip(loops, saved, strict=True))
    )


def _loops_to_compute_again_in(plan: Schedule) -> dict[Node, int]:
    """For each value, the loop that would load the most bytes if nothing were recomputed."""
    propagation = plan.propagation
    most: dict[Node, int] = {}
    chosen: dict[Node, int] = {}
    earlier: set[Node] = set()
    whole: set[Node] = set()
    for k, loop in enumerate(plan.loops):
        needed = propagation.closure(loop.roots, whole)
        known_before = needed & earlier
        loaded = sum(map(bytes_of, _smallest_cut(propagation, needed, loop.roots, known_before, known_before)))
        for node in known_before:
            if loaded >= most.get(node, 0):
                most[node], chosen[node] = loaded, k
        earlier |= needed
        whole |= _whole_after(propagation, loop.roots)
    return chosen


def _whole_after(propagation: Propagation, roots: Iterable[Node]) -> set[Node]:
    """The S values that exist for the full batch once a loop has assembled its roots."""
    return {root for root in roots if isinstance(propagation.placement(root), Shard)}


def _is_cheap(node: Node) -> bool:
    rule = rule_of(node.target)
    return is_view(node) or (rule is not None and rule.is_cheap)


def _smallest_cut(
    propagation: Propagation, needed: set[Node], roots: Sequence[Node], earlier: set[Node], forbidden: set[Node]
) -> set[Node]:
    """The cheapest values to save, counting what is then recomputed: nothing forbidden, if that can be avoided."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(("source", "sink"))
    for node in earlier:
        graph.add_edge(
            (node, "in"), (node, "out"), capacity=bytes_of(node) if _savable(propagation, node) else _UNSAVABLE
        )
        again = {} if node in forbidden else {"capacity": 0 if is_view(node) else bytes_of(node) // _AGAIN}
        graph.add_edge("source", (node, "in"), **again)
        if node in roots:
            graph.add_edge((node, "out"), "sink")
    for node in needed:
        for operand in earlier.intersection(propagation[node].local):
            graph.add_edge((operand, "out"), (node, "in") if node in earlier else "sink")
    _, (reached, _) = networkx.minimum_cut(graph, "source", "sink")
    return {n for n in earlier if _savable(propagation, n) and (n, "in") in reached and (n, "out") not in reached}


def _savable(propagation: Propagation, node: Node) -> bool:
    return is_tensor(node) and isinstance(propagation.placement(node), Shard)


def _pinned(propagation: Propagation, needed: set[Node], maker: dict) -> set[Node]:
    """Values made before that a discontinuous operator compares with their own maximum or order.

    Recomputed, they may round differently and match nothing.
    """
    pinned: set[Node] = set()
    for node in needed:
        rule = rule_of(node.target)
        if rule is None or not rule.discontinuous:
            continue
        above = propagation.closure([node])
        assembled = {b for n in above for w in propagation[n].whole for b in _barriers(propagation, w)}
        for barrier in assembled:
            common = above & propagation.closure([barrier])
            pinned |= {n for n in common if n in maker and any(user in above - common for user in n.users)}
    return pinned


def _barriers(propagation: Propagation, value: Node) -> set[Node]:
    """The maxima, minima and gathered values that a whole value is computed from."""
    barriers, seen, stack = set(), set(), [value]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        placed = propagation[node]
        if placed.remade:
            stack += node.all_input_nodes
        elif isinstance(placed.placement, Shard) or placed.placement in (Partial("max"), Partial("min")):
            barriers.add(node)
    return barriers
