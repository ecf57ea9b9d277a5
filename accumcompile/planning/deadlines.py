"""Deadlines: after which loop each value is assembled.

A value that needs a barrier is available one stage later. Loop k holds exactly what stage k + 1 or the outputs need,
as late as possible: a forward pass whose results only matter in stage 1 runs in stage 1.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import sympy
from torch.fx import Graph, Node

from ..ir.placement import over_of
from ..propagation.placed import Propagation
from .schedule import Loop, Schedule

_NEVER = 1 << 30


def assign_roots(graph: Graph, propagation: Propagation) -> Schedule:
    """Loops that assemble everything the outputs need, with empty bodies."""
    outputs = tuple(graph.output_node().args[0])
    deadlines = _Deadlines(graph, propagation, [o for o in outputs if isinstance(o, Node)])
    deadlines.settle()
    deadlines.advance()
    loops = (
        Loop(k, tuple(same), over=over)
        for k, roots in enumerate(deadlines.roots_by_loop())
        for over, same in _by_rows(propagation, roots)
    )
    return Schedule(graph, propagation, tuple(loops), outputs)


def _by_rows(propagation: Propagation, roots: list[Node]) -> Iterator[tuple[sympy.Symbol | None, list[Node]]]:
    """The roots of each loop of one stage: loops over the batch and over derived rows read nothing of one another."""
    overs = {root: over_of(propagation.placement(root)) for root in roots}
    for over in dict.fromkeys(overs.values()):
        yield over, [root for root in roots if overs[root] == over]


class _Deadlines:
    """For each assembled value, the latest loop that can assemble it."""

    def __init__(self, graph: Graph, propagation: Propagation, outputs: list[Node]):
        self.propagation, self.outputs = propagation, outputs
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.last = max((p.stage for p in propagation if p.is_local and p.node.op == "call_function"), default=0)
        self.deadline: dict[Node, int] = {}  # an S or P value: the loop after which it is assembled
        self.wanted: dict[Node, int] = {}  # an R value: the loop before which it is computed
        self.changed = False

    def settle(self) -> None:
        """Lower deadlines until the constants of every loop's body are available in time."""
        self.changed = True
        while self.changed:
            self.changed = False
            for output in self.outputs:
                self._want(output, self.last + 1)
            for k in range(self.last, -1, -1):
                for node in self.body(self.roots(k)):
                    placed = self.propagation[node]
                    counted = self.propagation.makers_of(self.propagation.count_of(over_of(placed.placement)))
                    for source in (*placed.whole, *placed.sizes_from, *counted):
                        self._want(source, k)

    def _want(self, node: Node, before: int) -> None:
        """Record that the full value of ``node`` is needed before loop ``before``."""
        stack = [node]
        while stack:
            node = stack.pop()
            placed = self.propagation[node]
            table, time = (self.wanted, before) if placed.remade else (self.deadline, before - 1)
            if table.get(node, _NEVER) <= time:
                continue
            table[node] = time
            self.changed = True
            if placed.remade:
                stack += [o.node for o in placed.operands if o.node is not None]
                stack += placed.sizes_from
                stack += [n for n in node.all_input_nodes if node.target is operator.getitem]

    def roots(self, k: int) -> list[Node]:
        """The values that are assembled after loop ``k``."""
        return [node for node, deadline in self.deadline.items() if deadline == k]

    def roots_by_loop(self) -> list[list[Node]]:
        return [sorted(self.roots(k), key=self.order.__getitem__) for k in range(self.last + 1)]

    def body(self, roots: Iterable[Node]) -> set[Node]:
        """The roots and all local values that they are computed from."""
        return self.propagation.closure(roots)

    def advance(self) -> None:
        """Move each value to the loop whose body it extends least, the latest of several."""
        for node in sorted(self.deadline, key=self.order.__getitem__):
            stage, deadline = self.propagation[node].stage, self.deadline[node]
            if stage < deadline:
                own = self.body([node])
                others = {k: [r for r in self.roots(k) if r is not node] for k in range(stage, deadline + 1)}
                extra = {k: len(own - self.body(rest)) for k, rest in others.items() if rest or k == deadline}
                best = min(extra, key=lambda k: (extra[k], -k))
                self.deadline[node] = best
        self.settle()
