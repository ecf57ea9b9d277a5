"""The facts of a plan for reports: read from the schedule and the program, never used to run anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

import sympy
import torch
from torch.fx import Graph, GraphModule, Node

from ..diagnostics.where import user_frame
from ..ir.carry import Carry
from ..ir.loop import LoopSpec, accumulate_loop, loops_in
from ..ir.names import Names, is_seen_by_user, with_descriptions
from ..ir.operands import is_size, is_tensor, is_view, shape_of
from ..ir.placement import Partial, R, Shard, Size
from ..ir.sizes import expression
from ..planning.memory import Step, owner, steps_of
from ..planning.schedule import Loop, Schedule
from ..rules.table import is_constant
from . import causes
from .node_names import NodeNames
from .plan import LoopFact, Plan, ValueFact


def plan_facts(road: str, graph: Graph, plan: Schedule, program: GraphModule, names: Names) -> Plan:
    """Everything that ``explain`` says about one graph."""
    propagation = plan.propagation
    facts = _Facts(graph, plan, names)
    turning = causes.turning_whole(plan, graph)
    return Plan(
        road,
        propagation.batch.symbol,
        propagation.granule(),
        tuple(facts.loop(loop, spec) for loop, (_, spec) in zip(plan.loops, loops_in(program), strict=True)),
        tuple(causes.fact(plan, b, facts.node_names, facts.value(b.node)) for b in causes.barriers(plan)),
        tuple(facts.value(node) for node in facts.kept()),
        tuple(fact for node in facts.whole() for fact in facts.results(node)),
        program=_program_steps(program, facts.nodes),
        unsplit=_unsplit_steps(graph, plan),
        turning_whole=facts.value(turning) if turning is not None else None,
    )


class _Facts:
    """The values of one graph, as facts."""

    def __init__(self, graph: Graph, plan: Schedule, names: Names):
        self.graph, self.plan, self.propagation = graph, plan, plan.propagation
        self.node_names = NodeNames(graph, plan, names)
        self.nodes = {node.name: node for node in graph.nodes}

    def value(self, node: Node, taken: str = "") -> ValueFact:
        """A value of the graph; ``taken`` is the placement in which a loop takes it."""
        frame = user_frame(node.meta.get("stack_trace"))
        value = node.meta.get("val")
        lives = self.propagation.placement(node) if node in self.propagation else R
        placement = str(lives)
        return ValueFact(
            self.node_names.of(node),
            shape_of(node) or (),
            value.dtype if isinstance(value, torch.Tensor) else None,
            taken or placement,
            frame.where if frame else "",
            frame.code if frame else "",
            str(R if isinstance(lives, Partial) else lives) if taken not in ("", placement) else "",
            frame.function if frame else "",
        )

    def carried(self, carry: Carry) -> ValueFact:
        """A value that a loop carries."""
        wider = carry.dtype if carry.dtype != carry.result else None
        return replace(self.value(self.nodes[carry.source]), accumulated_in=wider)

    def results(self, node: Node) -> Iterator[ValueFact]:
        """A fact for each tensor result of a node that was computed whole."""
        fact, value = replace(self.value(node), placement="R"), node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else ():
            if isinstance(tensor, torch.Tensor):
                yield replace(fact, shape=tuple(expression(s) for s in tensor.shape), dtype=tensor.dtype)
        if isinstance(value, torch.Tensor):
            yield fact

    def loop(self, loop: Loop, spec: LoopSpec) -> LoopFact:
        """One loop, in the vocabulary of scan."""
        return LoopFact(
            loop.stage,
            tuple(self.value(node, "R") for node in self._consts(spec)),
            tuple(self.value(self.nodes[x.source], x.placement) for x in spec.xs),
            tuple(map(self.carried, spec.carry)),
            tuple(self.value(self.nodes[y.source]) for y in spec.ys),
            len(loop.nodes),
            loop.at_once,
            *self._rows(loop),
            steps_of(loop.nodes, _yielded(spec, self.nodes), lambda n: self.propagation[n].placements),
        )

    def _rows(self, loop: Loop) -> tuple[str, Size, int]:
        """The derived rows that a loop runs over: their name, their number, and how many stay together."""
        if loop.over is None:
            return "", 0, 1
        return str(loop.over), self.propagation.derived[loop.over].count, self.propagation.granule(loop.over)

    def _consts(self, spec: LoopSpec) -> Iterable[Node]:
        """The tensors that every micro-batch takes whole, with views replaced by their bases."""
        taken = (self.nodes.get(source) for source in spec.consts)
        return dict.fromkeys(_base(node) for node in taken if is_tensor(node))

    def kept(self) -> Iterator[Node]:
        """Outputs seen by the user that are held for the full batch."""
        for node, description in with_descriptions(self.graph):
            computed = isinstance(node, Node) and node.op == "call_function" and is_seen_by_user(description)
            if computed and isinstance(self.propagation.placement(node), Shard):
                yield node

    def whole(self) -> Iterator[Node]:
        """The values computed on the full batch: all of its size that no loop computes."""
        inside = [n for loop in self.plan.loops for n in loop.nodes]
        read = causes.read_between_loops(self.plan, iter(inside), outputs=True)
        for node in self.graph.nodes:
            if node in read and node not in self.node_names.assembled and self._costs_memory(node):
                yield node

    def _costs_memory(self, node: Node) -> bool:
        """Whether a node makes a batch-sized or data-dependent value that is neither a view nor a constant."""
        if node.op != "call_function" or is_size(node) or is_view(node) or is_constant(node):
            return False
        sizes = _symbolic_sizes(node)
        return any(self.propagation.batch.in_size(s) or not s.free_symbols <= self._given for s in sizes)

    @cached_property
    def _given(self) -> set:
        """The symbols that do not depend on data."""
        holders = self.graph.find_nodes(op="placeholder")
        return {symbol for n in holders for size in _symbolic_sizes(n) for symbol in size.free_symbols}


def _symbolic_sizes(node: Node) -> list[sympy.Expr]:
    """The symbolic sizes of a node's results."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    sizes = [expression(s) for v in values if isinstance(v, torch.Tensor) for s in v.shape]
    return [s for s in sizes if isinstance(s, sympy.Expr)]


def _base(node: Node) -> Node:
    """The value that a view is a view of."""
    base, _ = owner(node)
    return base if is_tensor(base) else node


def _program_steps(program: GraphModule, sources: Mapping[str, Node]) -> tuple[Step, ...]:
    """The memory steps of the program in order, its loops included."""
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    calls = [n for n in nodes if n.target is accumulate_loop]
    loops = {call: (i, _yielded(call.args[-1], sources)) for i, call in enumerate(calls)}
    return steps_of(nodes, program.graph.output_node().all_input_nodes, loops=loops)


def _yielded(spec: LoopSpec, sources: Mapping[str, Node]) -> dict[Node, int]:
    """The values that a loop yields, each with the extra bytes per element while it is accumulated."""
    carried = {sources[each.source]: each.dtype.itemsize - each.result.itemsize for each in spec.carry}
    return carried | {sources[y.source]: 0 for y in spec.ys}


def _unsplit_steps(graph: Graph, plan: Schedule) -> tuple[Step, ...]:
    """The memory steps of the graph run unsplit on the full batch."""
    nodes = [n for n in graph.nodes if n.op == "call_function"]
    return steps_of(nodes, [o for o in plan.outputs if isinstance(o, Node)])
