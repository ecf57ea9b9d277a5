"""The facts of a plan, for people: read off the schedule and the program, never used to run anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import sympy
import torch
from torch.fx import Graph, GraphModule, Node

from . import causes
from .called import Called, described
from .capture.naming import Names, is_users
from .carry import Carry
from .loop import accumulate_loop
from .memory import is_alias, owner, steps_of
from .operands import is_size, is_tensor, shape_of
from .placement import Placement, Shard
from .plan import LoopFact, Plan, ValueFact
from .propagation import Propagation
from .rules.table import is_constant
from .schedule import Loop, Schedule
from .sizes import expression
from .where import user_frame


def plan_facts(road: str, graph: Graph, plan: Schedule, program: GraphModule, names: Names) -> Plan:
    """Everything that ``explain`` tells of one graph."""
    known = plan.propagation
    facts = _Facts(graph, plan, names)
    turning = causes.turning_whole(plan, graph)
    return Plan(
        road,
        known.batch.symbol,
        known.granule,
        tuple(facts.loop(meta) for meta in program.meta["loops"].values()),
        tuple(causes.fact(plan, b, facts.called, facts.value(b.node)) for b in causes.barriers(plan)),
        tuple(facts.value(node) for node in facts.kept()),
        tuple(fact for node in facts.whole() for fact in facts.results(node)),
        program=_program_steps(program),
        unsplit=_unsplit_steps(graph, plan),
        turning_whole=facts.value(turning) if turning is not None else None,
    )


class _Facts:
    """The values of one graph, as facts."""

    def __init__(self, graph: Graph, plan: Schedule, names: Names):
        self.graph, self.plan, self.known = graph, plan, plan.propagation
        self.called = Called(graph, plan, names)

    def value(self, node: Node, taken: Placement | None = None) -> ValueFact:
        """A value of the graph; ``taken`` is the placement in which a loop takes it."""
        frame = user_frame(node.meta.get("stack_trace"))
        value = node.meta.get("val")
        placement = str(self.known.placement(node)) if node in self.known else "R"
        return ValueFact(
            self.called.of(node),
            shape_of(node) or (),
            value.dtype if isinstance(value, torch.Tensor) else None,
            str(taken or placement),
            frame.where if frame else "",
            frame.code if frame else "",
            _elsewhere(placement) if taken is not None and str(taken) != placement else "",
            frame.function if frame else "",
        )

    def carried(self, node: Node, carry: Carry) -> ValueFact:
        """A value that a loop carries."""
        return replace(self.value(node), accumulated_in=carry.dtype if carry.dtype != carry.result else None)

    def results(self, node: Node) -> Iterator[ValueFact]:
        """A value that was computed whole: each of its results, where there are several."""
        fact, value = replace(self.value(node), placement="R"), node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else ():
            if isinstance(tensor, torch.Tensor):
                yield replace(fact, shape=tuple(expression(s) for s in tensor.shape), dtype=tensor.dtype)
        if isinstance(value, torch.Tensor):
            yield fact

    def loop(self, meta: dict) -> LoopFact:
        """One loop, in scan's words."""
        loop = meta["loop"]
        leaving = (*meta["carried"], *meta["kept"])
        return LoopFact(
            loop.stage,
            tuple(replace(self.value(node), placement="R") for node in _consts(self.known, loop)),
            tuple(self.value(node, placement) for node, placement in meta["xs"]),
            tuple(self.carried(node, carry) for node, carry in meta["carried"].items()),
            tuple(self.value(node) for node in meta["kept"]),
            len(loop.nodes),
            loop.at_once,
            steps_of(loop.nodes, leaving, lambda n: self.known[n].placements),
        )

    def kept(self) -> Iterator[Node]:
        """Outputs of the user's that are held for the full batch."""
        for node, description in described(self.graph):
            made = isinstance(node, Node) and node.op == "call_function" and is_users(description)
            if made and isinstance(self.known.placement(node), Shard):
                yield node

    def whole(self) -> Iterator[Node]:
        """What is computed on the full batch: everything of its size that no loop computes."""
        inside = [n for loop in self.plan.loops for n in loop.nodes]
        read = causes.read_between_loops(self.plan, iter(inside), outputs=True)
        for node in self.graph.nodes:
            if node in read and node not in self.called.assembled and self._costs_memory(node):
                yield node

    def _costs_memory(self, node: Node) -> bool:
        """Whether a node makes something of the batch's size: no view, and no constant."""
        if node.op != "call_function" or is_size(node) or is_alias(node) or is_constant(node):
            return False
        sizes = _symbolic_sizes(node)
        return any(self.known.batch.in_size(s) or not s.free_symbols <= self._given for s in sizes)

    @cached_property
    def _given(self) -> set:
        """The symbols that do not depend on data."""
        holders = self.graph.find_nodes(op="placeholder")
        return {symbol for n in holders for size in _symbolic_sizes(n) for symbol in size.free_symbols}


def _elsewhere(placement: str) -> str:
    """The placement outside of loops of what had ``placement`` in one: sums are finished by then."""
    return "R" if placement.startswith("P") else placement


def _symbolic_sizes(node: Node) -> list[sympy.Expr]:
    """The sizes of a node's results that are no plain numbers."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    sizes = [expression(s) for v in values if isinstance(v, torch.Tensor) for s in v.shape]
    return [s for s in sizes if isinstance(s, sympy.Expr)]


def _consts(known: Propagation, loop: Loop) -> dict[Node, None]:
    """The values that every micro-batch takes whole."""
    found: dict[Node, None] = {}
    for node in loop.nodes:
        for operand, need in known[node].takes():
            source = operand.node
            if source in known[node].whole and not isinstance(need.placement, Shard) and not is_constant(source):
                found[_base(source)] = None
    return found


def _base(node: Node) -> Node:
    """The value that a view is a view of."""
    base, _ = owner(node)
    return base if is_tensor(base) else node


def _program_steps(program: GraphModule):
    """What the program makes, in order, its loops among it."""
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    calls = [n for n in nodes if n.target is accumulate_loop]
    metas = [program.meta["loops"][call.args[0].target] for call in calls]
    loops = {call: (i, _yielded(meta)) for i, (call, meta) in enumerate(zip(calls, metas, strict=True))}
    return steps_of(nodes, program.graph.output_node().all_input_nodes, loops=loops)


def _yielded(meta: dict) -> dict[Node, int]:
    """What a loop yields, and by how many bytes an element is larger while it is accumulated."""
    carried = {node: carry.dtype.itemsize - carry.result.itemsize for node, carry in meta["carried"].items()}
    return carried | dict.fromkeys(meta["kept"], 0)


def _unsplit_steps(graph: Graph, plan: Schedule):
    """What the graph as it was captured would make on the full batch."""
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    return steps_of(nodes, [o for o in plan.outputs if isinstance(o, Node)])
