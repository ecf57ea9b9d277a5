"""A lowering is a class behind a protocol: one that is written here works as the built-in ones do."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from torch.fx import GraphModule
from torch.nn import functional as F

import accumcompile.passes
from accumcompile import AccumulateError, accumulate
from accumcompile.ir.loop import accumulate_loop
from accumcompile.lowering.eager import EagerLowering
from accumcompile.session.lowerings import LOWERINGS
from accumcompile.session.session import Session

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
aten = torch.ops.aten


class Counting:
    """Runs programs as the eager lowering does, counts their loops, and wants one operator as it is."""

    draws_by_seed = False

    def __init__(self, session: Session):
        self.eager, self.loops, self.operators = EagerLowering(session), 0, set()

    def decompositions(self) -> Mapping[Any, Callable]:
        table = dict(self.eager.decompositions())
        del table[aten.silu.default]
        return table

    def lower(self, program: GraphModule) -> GraphModule:
        for call in program.graph.find_nodes(op="call_function", target=accumulate_loop):
            self.loops += 1
            self.operators |= {node.target for node in program.get_submodule(call.args[0].target).graph.nodes}
        return self.eager.lower(program)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(LOWERINGS, "counting", Counting)


def step(model, x, y):
    loss = F.cross_entropy(F.silu(model(x)), y)
    loss.backward()
    return loss.detach()


def test_it_lowers_every_loop():
    ours, model = accumulate(steps=3, lowering="counting")(step), small.net()
    small.assert_equal(ours, model, *small.data(12))
    model.zero_grad()
    small.assert_equal(ours, model, *small.data(7))
    counting: Any = ours.session.lowering
    assert counting.loops == len(ours.explain(model, *small.data(12)).loops) > 0
    assert aten.silu.default in counting.operators


def test_each_step_has_its_own_and_keeps_it_while_another_is_asked_for():
    ours, other = (accumulate(steps=3, lowering="counting")(step) for _ in range(2))
    small.assert_equal(ours, small.net(), *small.data(12))
    counting: Any = ours.session.lowering
    assert isinstance(counting, Counting) and counting.loops and counting is not other.session.lowering
    before = counting.loops
    ours.session.change(lowering="eager")
    small.assert_equal(ours, small.net(), *small.data(12))
    assert isinstance(ours.session.lowering, EagerLowering) and counting.loops == before
    ours.session.change(lowering="counting")
    small.assert_equal(ours, small.net(), *small.data(12))
    assert ours.session.lowering is counting and counting.loops > before


def test_it_is_named_where_another_name_is_rejected():
    with pytest.raises(AccumulateError, match='is not "inductor" or "eager" or "counting"'):
        accumulate(steps=3, lowering="triton")


def test_no_part_of_the_compiler_asks_for_a_lowering_by_its_name():
    folders = Path(accumcompile.__file__).parent, Path(accumcompile.passes.__file__).parent
    for path in (file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            names = {value.value for value in asked if isinstance(value, ast.Constant)}
            assert names.isdisjoint(LOWERINGS), f"{path}:{getattr(node, 'lineno', 0)}"
