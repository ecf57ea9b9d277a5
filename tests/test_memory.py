"""The scan that estimates memory."""

import sympy
import torch
from torch.fx import Graph
from torch.utils._sympy.functions import FloorDiv

from accumcompile.ir.binding import is_known, value, weigh
from accumcompile.planning.memory import Made, Step, owner, peak, steps_of, volume

aten = torch.ops.aten
B = sympy.Symbol("s0", integer=True, positive=True)


def graph_of_three():
    """x + 1, a view of it, its exp; the view is used last."""
    graph = Graph()
    x = graph.placeholder("x")
    a = graph.call_function(aten.add.Tensor, (x, 1))
    view = graph.call_function(aten.view.default, (a, [8]))
    b = graph.call_function(aten.exp.default, (a,))
    c = graph.call_function(aten.mul.Tensor, (view, 2))
    for node in graph.nodes:
        node.meta["val"] = torch.empty(2, 4) if node not in (view, c) else torch.empty(8)
    return [a, view, b, c]


def test_views_keep_their_base_alive():
    nodes = graph_of_three()
    a, view, _, c = nodes
    assert owner(view) == (a, 0)
    steps = steps_of(nodes, [c])
    assert [[made.last for made in step.makes] for step in steps] == [[3], [], [2], [4]]
    assert peak(steps, {}) == 2 * 32  # b is gone when c is made


def test_a_share_of_what_is_sharded_and_a_loop():
    body = (Step((Made((B, 4), 4, True, 1),)), Step((Made((4,), 4, False, 2),)))
    assert peak(body, {B: 8}) == 8 * 16 + 16
    assert peak(body, {B: 8}, share=(2, 8)) == 2 * 16 + 16
    program = (Step((Made((4,), 4, False, 2),), loop=0), Step((Made((B,), 4, False, 1),)))
    assert peak(program, {B: 8}, loops=[100]) == 116


def test_sizes():
    unknown = sympy.Symbol("u0")
    assert value(3, {}) == 3
    assert value(2 * B, {B: 6}) == 12
    assert value(unknown, {B: 6}) is None and volume((B, unknown), {B: 6}) == 0
    assert is_known((B, 4), {B: 6})
    assert not is_known((B, unknown), {B: 6})


def test_a_size_is_weighed_without_dividing_by_zero():
    """Every symbol is taken as the same number: 64, but for sizes that have none there."""
    other = sympy.Symbol("s1", integer=True, positive=True)
    assert weigh(3) == 3
    assert weigh(B * 2) == 128
    for size in (FloorDiv(B, FloorDiv(64, other) - 1), FloorDiv(B, other - 64), 1 / (B - other), 64 * B / (B - 64)):
        assert weigh(size) >= 0
    assert weigh(B - 100) >= 0
