"""The table that holds after every pass: each row trips on a program that breaks it, and on no other."""

from __future__ import annotations

import operator
from dataclasses import replace

import pytest
import torch
from torch.fx import GraphModule

from accumcompile import BuildError
from accumcompile.ir.loop import accumulate_loop
from accumcompile.ir.operands import shape_of
from accumcompile.ir.placement import Layout, Partial, R, Shard
from accumcompile.oracle.capture import capture
from accumcompile.passes import GRAPH_PASSES, NORMALISATION, PROGRAM_PASSES, spec
from accumcompile.passes.manager import Context, Planned, run
from accumcompile.planning.decisions import schedule
from accumcompile.propagation.propagate import propagate

aten = torch.ops.aten


def step(x, w):
    """Two loops, a maximum between them, and one of several results."""
    h = torch.tanh(x @ w)
    return (h - h.amax(0)).exp().sum(), h.sort(1)[0]


class Compiled:
    """A step on its way through the compiler; each part may be broken before it is checked."""

    def __init__(self):
        captured = capture(step, (torch.randn(12, 4), torch.randn(4, 3)), (0, None))
        self.gm = run([*NORMALISATION, *GRAPH_PASSES], captured.gm, Context(captured.batch))
        self.propagation = propagate(self.gm.graph, captured.batch)
        self.plan = schedule(self.gm.graph, self.propagation)
        self.program = run(PROGRAM_PASSES, self.gm, Planned(self.plan))

    def check(self):
        spec.check_graph("a pass", self.gm)
        spec.check_placed(self.propagation)
        spec.check_schedule(self.plan)
        spec.check_program("a pass", self.program)

    # --- what is broken

    def node(self, target):
        """The first node of the captured graph with this target."""
        return next(iter(self.gm.graph.find_nodes(op="call_function", target=target)))

    def place(self, target, **facts):
        node = self.node(target)
        self.propagation.placed[node] = replace(self.propagation[node], **facts)

    def loop(self, k, **facts):
        loops = list(self.plan.loops)
        loops[k] = replace(loops[k], **facts)
        self.plan = replace(self.plan, loops=tuple(loops))

    def calls(self):
        return list(self.program.graph.find_nodes(op="call_function", target=accumulate_loop))

    def spec_of(self, k, **facts):
        call = self.calls()[k]
        call.args = (*call.args[:-1], replace(call.args[-1], **facts))

    def insert(self, gm: GraphModule, target, *args):
        """A node before the output; where it is the captured graph's, with a value."""
        with gm.graph.inserting_before(gm.graph.output_node()):
            node = gm.graph.call_function(target, args)
        node.meta["val"] = None
        return node


def changed_then_read(c: Compiled, gm: GraphModule):
    x = next(n for n in gm.graph.nodes if n.op == "placeholder" and n.name != "split")
    c.insert(gm, aten.neg_.default, x)
    c.insert(gm, aten.neg.default, x)


def first_body(c: Compiled) -> GraphModule:
    return c.program.get_submodule("loop_0")


BROKEN = {
    "a node has a value": lambda c: c.node(aten.tanh.default).meta.pop("val"),
    "a result that is read is one that there is": lambda c: setattr(
        c.node(operator.getitem), "args", (c.node(aten.sort.default), 2)
    ),
    "what is changed in place is not read afterwards": lambda c: changed_then_read(c, c.gm),
    "every result and operand has a placement": lambda c: c.place(aten.sort.default, results=(Layout(R),)),
    "a shard lies along a dimension that holds the batch": lambda c: c.place(
        aten.tanh.default, results=(Layout(Shard(1)),)
    ),
    "a partial value is reduced by an operator of the table": lambda c: c.place(
        aten.amax.default, results=(Layout(Partial("product")),)
    ),
    "what is taken from the own micro-batch is made no later": lambda c: c.place(aten.tanh.default, stage=9),
    "nothing is made partial where it is taken": lambda c: c.place(
        aten.tanh.default, needs=(replace(c.propagation[c.node(aten.tanh.default)].needs[0], layout=Layout(Partial())),)
    ),
    "a loop yields what it computes": lambda c: c.loop(1, nodes=()),
    "only shards are saved": lambda c: c.loop(0, saved=(c.node(aten.amax.default),)),
    "a loop computes what it reads, or it is there": lambda c: c.loop(1, nodes=c.plan.loops[1].nodes[1:]),
    "what is computed whole before a loop needs nothing that comes later": lambda c: c.loop(
        0, remade=(c.node(aten.exp.default),)
    ),
    "loops come in the order of their stages": lambda c: c.loop(1, stage=0),
    "a size is a number or a node": lambda c: c.insert(
        first_body(c),
        aten.view.default,
        next(iter(first_body(c).graph.nodes)),
        [shape_of(c.node(aten.tanh.default))[0]],
    ),
    "a loop takes and yields what its spec says": lambda c: c.spec_of(0, xs=()),
    "a carry is reduced by an operator of the table": lambda c: c.spec_of(
        0, carry=tuple(replace(each, op="product") for each in c.calls()[0].args[-1].carry)
    ),
    "what is sliced has that dimension": lambda c: c.spec_of(
        0, xs=tuple(replace(each, dim=7) for each in c.calls()[0].args[-1].xs)
    ),
    "of a loop only single values are read": lambda c: c.insert(c.program, len, c.calls()[0]),
    "what draws or changes something is in no body": lambda c: c.insert(
        first_body(c), aten.bernoulli.default, next(iter(first_body(c).graph.nodes))
    ),
    "bodies hold no loops": lambda c: c.insert(first_body(c), accumulate_loop),
}
ROWS = (*spec.GRAPH, *spec.PLACED, *spec.SCHEDULE, *spec.PROGRAM, *spec.BODY)


def test_what_is_right_passes():
    compiled = Compiled()
    assert len(compiled.plan.loops) == 2
    compiled.check()


def test_every_row_has_a_control():
    assert {row.what for row in ROWS} == BROKEN.keys()


@pytest.mark.parametrize("what", BROKEN)
def test_a_row_trips(what):
    compiled = Compiled()
    BROKEN[what](compiled)
    with pytest.raises(BuildError, match=what):
        compiled.check()


def test_a_program_that_reads_what_it_has_changed_trips_too():
    compiled = Compiled()
    changed_then_read(compiled, compiled.program)
    with pytest.raises(BuildError, match="what is changed in place is not read afterwards"):
        compiled.check()
