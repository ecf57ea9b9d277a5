"""Values that several loops need: saved by the earlier loop, or recomputed by the later one.

Saving everything takes the full batch's memory; recomputing everything takes time quadratic in the number of loops. So
an expensive value is recomputed in at most one loop: the one that would otherwise have to load the most bytes. For the
loss, an embedding is saved and its tower is not run again; for the backward, the tower is run again and its activations
are not saved. Every other loop loads the smallest cut, in bytes, between what was computed before and what it yields.
Cheap operators may be recomputed in any loop. Values whose rounding must not differ are not recomputed
(``comparisons.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import networkx
from torch.fx import Node

from ..ir.operands import is_tensor, is_view
from ..ir.placement import Shard
from ..propagation.cost import bytes_of
from ..propagation.placed import Propagation
from ..rules.table import rule_of
from .comparisons import Comparisons, Conflict, EarlierLoops
from .schedule import Loop, Schedule

_AGAIN = 16  # recomputing this many bytes costs as much as saving one
_UNSAVABLE = 1 << 62  # bytes: the capacity of a value that cannot be saved, such as a partial sum


def choose_saved(plan: Schedule) -> Schedule:
    """The schedule with the nodes of every loop, and the values that it saves for later loops."""
    again, once = _loops_to_compute_again_in(plan), set[Node]()
    while True:
        saver = Saver(plan, again, once)
        loops = [saver.choose(k, loop) for k, loop in enumerate(plan.loops)]
        if saver.pins <= once:
            saved = [replace(loop, saved=tuple(saver.saved[k])) for k, loop in enumerate(loops)]
            return replace(plan, loops=tuple(saved))
        once |= saver.pins


class Saver:
    """Goes through the loops in order. ``once`` are values that only one loop may compute."""

    def __init__(self, plan: Schedule, again: Mapping[Node, int], once: AbstractSet[Node]):
        self.propagation, self.again, self.once = plan.propagation, again, once
        self.order = {node: i for i, node in enumerate(plan.graph.nodes)}
        self.earlier = EarlierLoops()
        self.whole: set[Node] = set()  # S values that exist for the full batch
        self.saved: list[list[Node]] = [[] for _ in plan.loops]
        self.remade: set[Node] = set()  # of these, those that are computed between loops
        self.pins: set[Node] = set()  # values that two loops computed, and may not

    def choose(self, k: int, loop: Loop) -> Loop:
        """The loop with its nodes; what it loads is saved by earlier loops."""
        loaded = self._loaded(k, loop)
        new = self._in_order(loaded - self.whole)
        self.earlier = self.earlier.saving(new)
        for node in new:
            self.saved[self.earlier.source[node]].append(node)
        self.whole |= loaded
        roots = tuple(root for root in loop.roots if root not in self.whole)
        body = self.propagation.closure(roots, loaded)
        for node in body:
            self.earlier.computing.setdefault(node, set()).add(k)
        self.earlier.source |= dict.fromkeys(roots, k)
        self.whole |= _whole_after(self.propagation, roots)
        remade = self.remade.intersection(n for node in body for n in self.propagation[node].local)
        return replace(loop, roots=roots, nodes=tuple(self._in_order(body)), remade=tuple(self._in_order(remade)))

    def _loaded(self, k: int, loop: Loop) -> set[Node]:
        """The S values that a loop loads, so that what its jumps compare comes from the same code."""
        again, pinned = set[Node](), set[Node]()
        forbidden = {node for node in self.earlier.computing if not self._may_compute(node, k)}
        while True:
            whole = self.whole - again
            needed = self.propagation.closure(loop.roots, whole)
            earlier = needed.intersection(self.earlier.computing)
            cut = _smallest_cut(self.propagation, needed, loop.roots, earlier, forbidden - again | pinned, again)
            loaded = whole | cut
            body = self._in_order(self.propagation.closure(loop.roots, loaded))
            conflicts = Comparisons(self.propagation, self.earlier.saving(cut), body, loaded).conflicts()
            settled = [self._settle(conflict, again, pinned) for conflict in conflicts]
            if not any(settled):
                return loaded

    def _may_compute(self, node: Node, k: int) -> bool:
        """Whether loop ``k`` may compute what an earlier one did."""
        return node not in self.once and (_is_cheap(node) or self.again.get(node) == k)

    def _settle(self, conflict: Conflict, again: set[Node], pinned: set[Node]) -> bool:
        """Have what is compared come from the same code; whether that changes anything.

        The selected value is selected ``again``, or, where something else holds it, the values are ``pinned``: loaded.
        """
        selected, values = conflict.selected, conflict.values
        if conflict.between_loops:
            self.remade |= values
            self.whole |= values
        elif selected in self.earlier.computing and selected not in self.once | pinned | again:
            again.add(selected)
        else:
            self.pins |= {value for value in values if len(self.earlier.computing[value]) > 1}
            new = values - pinned
            pinned |= values
            return bool(new)
        return True

    def _in_order(self, nodes: Iterable[Node]) -> list[Node]:
        return sorted(nodes, key=self.order.__getitem__)


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
    propagation: Propagation,
    needed: set[Node],
    roots: Sequence[Node],
    earlier: set[Node],
    forbidden: set[Node],
    again: AbstractSet[Node] = frozenset(),
) -> set[Node]:
    """The cheapest values to save, counting what is then recomputed.

    It recomputes nothing forbidden, and saves nothing that is computed ``again``, if that can be avoided.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from(("source", "sink"))
    for node in earlier:
        savable = _savable(propagation, node) and node not in again
        graph.add_edge((node, "in"), (node, "out"), capacity=bytes_of(node) if savable else _UNSAVABLE)
        free = {} if node in forbidden else {"capacity": 0 if is_view(node) else bytes_of(node) // _AGAIN}
        graph.add_edge("source", (node, "in"), **free)
        if node in roots:
            graph.add_edge((node, "out"), "sink")
    for node in needed:
        for operand in earlier.intersection(propagation[node].local):
            graph.add_edge((operand, "out"), (node, "in") if node in earlier else "sink")
    _, (reached, _) = networkx.minimum_cut(graph, "source", "sink")
    return {n for n in earlier if _savable(propagation, n) and (n, "in") in reached and (n, "out") not in reached}


def _savable(propagation: Propagation, node: Node) -> bool:
    return is_tensor(node) and isinstance(propagation.placement(node), Shard)
