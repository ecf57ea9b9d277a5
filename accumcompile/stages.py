"""Stages: which loop computes what.

A value that needs a barrier is available one stage later. Loop k holds exactly what stage k + 1 or the outputs need,
as late as possible: a forward pass whose results only matter in stage 1 runs in stage 1. What two loops need is
saved by the earlier one or computed again by the later one (``saving``).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch.fx import Graph, Node

from .locality import closure, is_remade, size_sources, whole_operands
from .operands import elements, is_tensor, operands
from .placement import Replicate
from .propagation import Propagation
from .rules.table import rule_of
from .saving import choose_saved

_NEVER = 1 << 30


@dataclass
class Loop:
    """One loop: the nodes of its body in order, and what leaves it."""

    stage: int
    nodes: list[Node] = field(default_factory=list)
    roots: list[Node] = field(default_factory=list)  # P values reduced and S values gathered after it
    saved: list[Node] = field(default_factory=list)  # S values kept for later loops
    at_once: bool = False  # so small that it runs as one micro-batch


@dataclass
class Schedule:
    """The loops of a graph, in order, and the outputs of the graph."""

    propagation: Propagation
    loops: list[Loop]
    outputs: list[object]


def schedule(graph: Graph, known: Propagation) -> Schedule:
    """Assign every value that the outputs need to the loops that compute it."""
    outputs = list(next(n for n in graph.nodes if n.op == "output").args[0])
    deadlines = _Deadlines(graph, known, [o for o in outputs if isinstance(o, Node)])
    deadlines.settle()
    deadlines.advance()
    loops = [Loop(k, roots=roots) for k, roots in enumerate(deadlines.roots_by_loop()) if roots]
    choose_saved(known, loops, deadlines.order)
    _mark_small(loops)
    return Schedule(known, loops, outputs)


_SMALL = 256  # a loop this many times smaller than the largest costs nothing worth splitting


def _mark_small(loops: list[Loop]) -> None:
    """A loop that is small beside another runs as one micro-batch, if its results are the same at any shape."""
    sizes = [sum(elements(n) for n in loop.nodes if is_tensor(n)) for loop in loops]
    for loop, size in zip(loops, sizes, strict=True):
        exact = all(n in loop.roots or _is_exact(n) for n in loop.nodes)
        loop.at_once = exact and not loop.saved and size * _SMALL <= max(sizes)


def _is_exact(node: Node) -> bool:
    rule = rule_of(node.target)
    return rule is not None and rule.exact


class _Deadlines:
    """The latest loop after which each assembled value must be there."""

    def __init__(self, graph: Graph, known: Propagation, outputs: list[Node]):
        self.known, self.outputs = known, outputs
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.last = max((v.stage for n, v in known.values.items() if self._is_local(n)), default=0)
        self.deadline: dict[Node, int] = {}  # an S or P value: the loop after which it is assembled
        self.wanted: dict[Node, int] = {}  # an R value: the loop before which it is computed
        self.changed = False

    def _is_local(self, node: Node) -> bool:
        return not isinstance(self.known.values[node].placements[0], Replicate) and node.op == "call_function"

    def settle(self) -> None:
        """Lower deadlines until every loop's body finds its constants in time."""
        self.changed = True
        while self.changed:
            self.changed = False
            for output in self.outputs:
                self._want(output, self.last + 1)
            for k in range(self.last, -1, -1):
                for node in self.body(self.roots(k)):
                    for source in self._sources(node):
                        self._want(source, k)

    def _sources(self, node: Node) -> Iterable[Node]:
        yield from whole_operands(self.known, node)
        yield from size_sources(node)

    def _want(self, node: Node, before: int) -> None:
        """The whole of ``node`` is needed before a loop."""
        stack = [node]
        while stack:
            node = stack.pop()
            remade = is_remade(self.known, node)
            table, time = (self.wanted, before) if remade else (self.deadline, before - 1)
            if table.get(node, _NEVER) <= time:
                continue
            table[node] = time
            self.changed = True
            if remade:
                stack += [o.node for o in operands(node) if o.node is not None]
                stack += size_sources(node)
                stack += [n for n in node.all_input_nodes if node.target is operator.getitem]

    def roots(self, k: int) -> list[Node]:
        """What is assembled after loop ``k``."""
        return [node for node, deadline in self.deadline.items() if deadline == k]

    def roots_by_loop(self) -> list[list[Node]]:
        return [sorted(self.roots(k), key=self.order.__getitem__) for k in range(self.last + 1)]

    def body(self, roots: Iterable[Node]) -> set[Node]:
        """Everything local that the roots are computed from."""
        return closure(self.known, roots)

    def advance(self) -> None:
        """Assemble a value in an earlier loop where that computes it anyway, and the later one would not."""
        for node in sorted(self.deadline, key=self.order.__getitem__):
            stage, deadline = self.known.values[node].stage, self.deadline[node]
            if stage < deadline:
                own = self.body([node])
                others = {k: [r for r in self.roots(k) if r is not node] for k in range(stage, deadline + 1)}
                extra = {k: len(own - self.body(rest)) for k, rest in others.items() if rest or k == deadline}
                best = min(extra, key=lambda k: (extra[k], -k))
                self.deadline[node] = best
        self.settle()
