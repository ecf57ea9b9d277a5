"""Compiles what a program computes between its loops.

A segment is a run of operators between two loops; it compiles once, with the batch and other dynamic sizes
symbolic. Operators that draw random numbers or have data-dependent sizes run uncompiled, in their original order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from ...ir.binding import Binding, bind
from ...ir.loop import accumulate_loop
from ...ir.operands import comes_from_data, is_view
from ...ir.torch_api import OpOverload
from ...passes.store_compared import store_compared
from ...propagation.cost import elements_of
from ...session.session import Session
from ..node_by_node import Plain
from ..specialise import specialise
from ..specs import describe
from ..trust.trust import UNUSABLE, Trust
from . import api as inductor_api
from . import random_draws
from .api import signature
from .forms import Form, bytes_at_once, chooser
from .progress import Progress

aten, prims = torch.ops.aten, torch.ops.prims

# A compiled call takes 10 microseconds and its compilation seconds; an uncompiled operator takes 2 to 4
# microseconds.
LARGE = 4096  # elements from which fusing two operators saves memory traffic
KINDS_REMEMBERED = 256
MANY = 16  # small operators that are worth a compilation


class CompiledSegment(torch.nn.Module):
    """A segment, compiled when it first runs, and again for arguments of another kind."""

    def __init__(self, body: GraphModule, name: str, session: Session, progress: Progress):
        super().__init__()
        self.body, self.name, self.session, self.progress = body, name, session, progress
        self.holders = list(body.graph.find_nodes(op="placeholder"))
        self.trust = Trust(body, name, session)
        self.forms: dict[Any, list[Form]] = {}
        self._served: dict[Any, tuple[Form, list[int]]] = {}

    def forward(self, *values: Any) -> Sequence[Any]:
        """Run the form that fits the arguments' kinds and sizes; compile one if there is none."""
        with torch.no_grad():
            if not self.trust.lost:
                try:
                    return self._compiled(values)
                except UNUSABLE as why:
                    self.trust.lose(why)
            return Plain(self.body).values(*values)

    def _compiled(self, values: Sequence[Any]) -> Sequence[Any]:
        key = tuple(map(signature, values))
        if key not in self._served:
            if len(self._served) >= KINDS_REMEMBERED:
                self._served.clear()
            sizes = bind(self.holders, values)
            form = self._find(values, sizes)
            self._served[key] = form, list(form.values(sizes).values())
        form, numbers = self._served[key]
        given = [*numbers, *form.select(values)]
        if not self.trust.is_due(form):
            return form.call(given)

        def run() -> tuple[list, list]:
            outputs = list(form.call(given))
            return outputs, outputs

        return self.trust.checked(form, values, run)

    def _find(self, values: Sequence[Any], sizes: Binding) -> Form:
        specs = tuple(describe(h, v, sizes) for h, v in zip(self.holders, values, strict=True))
        forms = self.forms.setdefault(specs, [])
        for form in forms:
            if form.serves(sizes):
                return form
        what = f"{self.name}, {len(self.body.graph.nodes)} operators"
        with self.trust.compiling(values), self.progress.compiling(what):
            done = specialise(self.body.graph, self.body, specs, sizes)
            gm = store_compared(done.gm)
            inputs = [n.meta["val"] for n in gm.graph.find_nodes(op="placeholder")]
            options = dict(self.session.options.inductor or {})
            need = bytes_at_once(done)
            call = inductor_api.compile_graph(gm, inputs, done.trace, options)
            forms.append(Form(call, chooser(done.remaining, specs), done.symbols, done.guard(), [], need))
        return forms[-1]


def compile_bridges(program: GraphModule, session: Session, progress: Progress) -> GraphModule:
    """Replace each segment that is worth compiling by one call."""
    seeds_as_compiled(program.graph)
    for i, members in enumerate([s for s in segments(program.graph) if is_worthwhile(s)]):
        name = f"bridge_{i}"
        replace_by_call(program, members, name, lambda gm, name=name: CompiledSegment(gm, name, session, progress))
    program.graph.lint()
    program.recompile()
    return program


def seeds_as_compiled(graph: Graph) -> None:
    """Draw seeds as compiled code would, so that a step's numbers are those of the compiled full batch."""
    for node in graph.find_nodes(op="call_function", target=prims.inductor_seeds.default):
        node.target = random_draws.draw_seeds


def segments(graph: Graph) -> Iterator[list[Node]]:
    """The runs of operators that can be compiled together."""
    members: dict[Node, None] = {}
    for node in graph.nodes:
        if can_compile(node) or (node.target is operator.getitem and node.args[0] in members):
            members[node] = None
        elif node.target is accumulate_loop or any(n in members for n in node.all_input_nodes):
            if members:
                yield list(members)
            members = {}
    if members:
        yield list(members)


def can_compile(node: Node) -> bool:
    """Whether a node may be part of a segment: a pure operator on tensors without data-dependent sizes."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
        return False
    values = [value, *(a.meta.get("val") for a in node.all_input_nodes)]
    return tensors_in(value) and not any(has_unbacked(v) for v in values)


def tensors_in(value: Any) -> bool:
    """Whether a value is a tensor, or several."""
    leaves = value if isinstance(value, (list, tuple)) else [value]
    return bool(leaves) and all(isinstance(v, torch.Tensor) for v in leaves)


def has_unbacked(value: Any) -> bool:
    """Whether a value has a data-dependent size."""
    leaves = value if isinstance(value, (list, tuple)) else [value]
    return any(comes_from_data(s) for v in leaves if isinstance(v, torch.Tensor) for s in v.shape)


def is_worthwhile(members: Sequence[Node]) -> bool:
    """Whether a compiled call is likely to be faster than its operators one by one."""
    work = [n for n in members if isinstance(n.target, OpOverload) and not _moves_nothing(n)]
    if any(not isinstance(o.meta.get("val"), torch.Tensor) for o in outputs_of(members)):
        return False
    if any(n.target in random_draws.SLICES for n in work):
        return True  # run uncompiled, Inductor's draws ignore their seeds
    large = [n for n in work if elements_of(n) >= LARGE]
    return len(large) >= 2 or len(work) >= MANY


def outputs_of(members: Sequence[Node]) -> list[Node]:
    """The members that others use."""
    inside = set(members)
    return [n for n in members if any(u not in inside for u in n.users)]


def _moves_nothing(node: Node) -> bool:
    """Whether an operator only makes another view of its operand."""
    return is_view(node) or node.target in (aten.reshape.default, aten._unsafe_view.default)


def replace_by_call(program: GraphModule, members: Sequence[Node], name: str, wrap: Callable) -> None:
    """Move ``members`` into a new module, called where the last of them stood."""
    inside = set(members)
    inputs = list(dict.fromkeys(a for n in members for a in n.all_input_nodes if a not in inside))
    outputs = outputs_of(members)
    graph, copies = Graph(), {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta |= node.meta
    for node in members:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[o] for o in outputs))
    program.add_submodule(name, wrap(GraphModule(torch.nn.Module(), graph)))
    with program.graph.inserting_after(members[-1]):
        call = program.graph.call_module(name, tuple(inputs))
    for i, node in reversed(list(enumerate(outputs))):
        with program.graph.inserting_after(call):
            item = program.graph.call_function(operator.getitem, (call, i))
        item.meta |= node.meta
        for user in [u for u in node.users if u not in inside]:
            user.replace_input_with(node, item)
    for node in reversed(members):
        program.graph.erase_node(node)
