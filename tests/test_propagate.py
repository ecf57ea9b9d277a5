"""Placements and stages of small graphs: what is split along which factor, saved, or computed again."""

import pytest
import torch
from torch.nn import functional as F

from accumcompile.ir.placement import Shard
from accumcompile.oracle.capture import capture
from accumcompile.passes import GRAPH_PASSES, NORMALISATION
from accumcompile.passes.manager import Context, run
from accumcompile.planning.decisions import schedule
from accumcompile.propagation import layouts
from accumcompile.propagation.propagate import propagate

aten = torch.ops.aten
B, T, C = 12, 5, 3


def known_of(fn, *tensors, dims=None, joint=False, layout=propagate):
    """The graph of ``fn``, normalised, and what propagation knows of it."""
    choice = tuple(dims) if dims is not None else (0,) * len(tensors)
    captured = capture(fn, tensors, choice, joint=joint)
    gm = run([*NORMALISATION, *GRAPH_PASSES], captured.gm, Context(captured.batch))
    return gm.graph, layout(gm.graph, captured.batch)


def placed(fn, *tensors, dims=None):
    """The placements of the results, as text."""
    graph, known = known_of(fn, *tensors, dims=dims)
    return [str(known.placement(o)) for o in graph.output_node().args[0]]


def planned(fn, *tensors, dims=None, joint=False):
    """The graph and its schedule."""
    graph, known = known_of(fn, *tensors, dims=dims, joint=joint)
    return graph, schedule(graph, known)


x = torch.randn(B, C, dtype=torch.float64)
w = torch.randn(C, C, dtype=torch.float64)
sequence = torch.randn(T, B, C, dtype=torch.float64)


# Factors


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda s: s.flatten(0, 1), f"S(0, outer={T})"),
        (lambda s: torch.tanh(s.flatten(0, 1)) * 2, f"S(0, outer={T})"),
        (lambda s: s.flatten(0, 1).view(T, -1, C), "S(1)"),
        (lambda s: s.flatten(0, 1).view(T, -1, C).transpose(0, 1), "S(0)"),
        (lambda s: s.transpose(0, 1).flatten(0, 1), "S(0)"),
        (lambda s: s.flatten(0, 1).sum(), "P(sum)"),
        (lambda s: s.flatten(0, 1).unflatten(0, (T, -1)).sum(0), "S(0)"),
        (lambda s: s.flatten(0, 1).amax(0), "P(max)"),
    ],
)
def test_a_time_major_batch_is_flattened_and_put_back(fn, expected):
    """``(t b)``: the batch is the inner factor of a dimension, and stays split along it."""
    assert placed(fn, sequence, dims=(1,)) == [expected]


def test_a_product_of_flattened_rows_stays_split():
    """The weight's gradient contracts ``(t b)``: a partial sum."""
    assert placed(lambda s, w: s.flatten(0, 1) @ w, sequence, w, dims=(1, None)) == [f"S(0, outer={T})"]
    assert placed(lambda s: s.flatten(0, 1).t() @ s.flatten(0, 1), sequence, dims=(1,)) == ["P(sum)"]


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda a, b: torch.cat([a, b]), ["S(0, outer=2)"]),
        (lambda a, b: torch.cat([a, b, a]), ["S(0, outer=3)"]),
        (lambda a, b: torch.cat([a, b])[: a.shape[0]], ["S(0)"]),
        (lambda a, b: torch.cat([a, b])[a.shape[0] :], ["S(0)"]),
        (lambda a, b: torch.cat([a, b]).chunk(2), ["S(0)", "S(0)"]),
        (lambda a, b: torch.cat([a, b, a])[: 2 * a.shape[0]], ["S(0, outer=2)"]),
        (lambda a, b: torch.cat([a, b, a, b])[a.shape[0] : 3 * a.shape[0]].chunk(2), ["S(0)", "S(0)"]),
        (lambda a, b: torch.ones(2 * a.shape[0], C) + torch.cat([a, b]), ["S(0, outer=2)"]),
        (lambda a, b: torch.cat([a, b]).view(2, -1, C), ["S(1)"]),
        (lambda a, b: torch.stack([a, b]).flatten(0, 1), ["S(0, outer=2)"]),
        (lambda a, b: torch.cat([a, b], 1), ["S(0)"]),
    ],
)
def test_two_batches_are_concatenated_and_separated(fn, expected):
    """Chosen and rejected in one forward pass: ``(2 b)``, and each half again."""
    assert placed(fn, x, x) == expected


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (lambda x: x.cumsum(1)[: x.shape[0] // 2] - x.cumsum(1)[x.shape[0] // 2 :], "S(0, outer=2)"),
        (lambda x: x.cumsum(1).view(2, -1, C)[0], "S(0, outer=2)"),
        (lambda x: torch.cat([x.cumsum(1), x]).view(4, -1, C)[1], "S(0, outer=2)"),
        (lambda x: x.cumsum(1).view(-1, 2, C)[:, 0], "S(0)"),
        (lambda x: x[: x.shape[0] // 2] - x[x.shape[0] // 2 :], "S(0)"),  # whole without a gather
        (lambda x: x.cumsum(1).view(6, -1, C)[0], "S(0)"),  # no micro-batch would have less than six samples
    ],
)
def test_inputs_are_split_along_the_rows_of_blocks_that_are_separated(fn, inputs):
    """Where that gathers less."""
    graph, known = known_of(fn, x, layout=layouts.best)
    assert [str(known.placement(n)) for n in graph.find_nodes(op="placeholder")] == [inputs]


def test_a_model_of_two_batches_runs_in_one_loop():
    """Concatenation, a layer, and a loss of the halves: nothing is gathered."""

    def fn(a, b, w):
        rows = torch.tanh(torch.cat([a, b]) @ w)
        return (rows[: a.shape[0]] - rows[a.shape[0] :]).square().sum()

    _, plan = planned(fn, x, x, w, dims=(0, 0, None))
    assert len(plan.loops) == 1 and not plan.loops[0].saved
    assert not any(isinstance(plan.propagation.placement(n), Shard) for n in plan.loops[0].roots)


# Granules


def every_other_row_anew(x):
    torch._check(x.shape[0] % 2 == 0)
    return x.slice_scatter(x.new_zeros(x.shape[0] // 2, C), 0, 0, step=2)


@pytest.mark.parametrize(
    ("fn", "granule"),
    [
        (lambda x: x * 2, 1),
        (lambda x: x.view(-1, 4, C).sum(1), 4),
        (lambda x: x.view(-1, 2, C).sum(1).sum() + x.view(-1, 3, C).amax(1).sum(), 6),
        (lambda x: x.view(-1, 2 * C).tanh().view(-1, C), 2),
        (lambda x: x.repeat_interleave(3, 0).view(-1, 3, C).sum(1), 1),
        (every_other_row_anew, 2),
    ],
)
def test_granules(fn, granule):
    """Samples that a view groups stay together: a micro-batch holds a multiple of them."""
    _, known = known_of(fn, x)
    assert known.granule() == granule


# Values that are whole for free


def whole_stage(fn, *tensors, dims=None):
    """The stage at which the whole result can be had without a barrier; None: only by a gather."""
    graph, known = known_of(fn, *tensors, dims=dims)
    (output,) = graph.output_node().args[0]
    return known[output].whole_stage


@pytest.mark.parametrize(
    ("fn", "free"),
    [
        (lambda x, w: x.t(), True),
        (lambda x, w: torch.arange(x.shape[0])[None] == torch.arange(x.shape[0])[:, None], True),
        (lambda x, w: torch.ones(x.shape[0]).tanh(), True),
        (lambda x, w: x[:, :1] > 0, True),
        (lambda x, w: x @ w, False),
        (lambda x, w: (x @ w).t() * 2, False),
        (lambda x, w: x.softmax(-1), False),
    ],
)
def test_what_is_whole_without_a_gather(fn, free):
    """Inputs moved about or changed element by element, and whatever is made of no input, cost no barrier."""
    assert (whole_stage(fn, x, w, dims=(0, None)) is not None) == free


def test_a_mask_of_positions_is_no_barrier():
    """``eye(B)`` against a similarity matrix: only the embeddings are gathered."""

    def fn(x, w):
        rows = x @ w
        same = torch.arange(x.shape[0])[None] == torch.arange(x.shape[0])[:, None]
        return (rows @ rows.t()).masked_fill(same, 0).square().sum()

    _, plan = planned(fn, x, w, dims=(0, None))
    roots = [n.target for loop in plan.loops for n in loop.roots]
    assert roots == [aten.mm.default, aten.sum.default]


# Saved or computed again


def products(loop):
    return sum(n.target in (aten.mm.default, aten.addmm.default) for n in loop.nodes)


def test_a_value_two_loops_need_is_computed_again():
    """One extra product is cheaper than keeping the rows."""

    def fn(x, w):
        rows = (x @ w).tanh()
        return (rows * rows.sum(0)).square().sum()

    _, plan = planned(fn, x, w, dims=(0, None))
    assert [products(loop) for loop in plan.loops] == [1, 1]
    assert not any(loop.saved for loop in plan.loops)


@pytest.mark.parametrize(
    "jump", [lambda rows, m: rows == m, lambda rows, m: rows >= m, lambda rows, m: ((rows - m) * 1e9).round()]
)
def test_a_value_that_meets_its_own_maximum_is_saved(jump):
    """Computed again it may round differently, and would equal its maximum nowhere."""

    def fn(x, w):
        rows = (x @ w).tanh()
        return jump(rows, rows.amax(0)).double().sum()

    _, plan = planned(fn, x, w, dims=(0, None))
    assert [products(loop) for loop in plan.loops] == [1, 0]
    assert len(plan.loops[0].saved) == 1


def test_a_discontinuity_of_something_else_is_computed_again():
    """A threshold that does not depend on the rows themselves pins nothing."""

    def fn(x, w):
        rows = (x @ w).tanh()
        return (rows * rows.sum(0) * (rows > 0.5)).sum()

    _, plan = planned(fn, x, w, dims=(0, None))
    assert [products(loop) for loop in plan.loops] == [1, 1]


def deep(layers):
    """Layers of a product and a BatchNorm; forward and backward."""

    def fn(x, *weights):
        for weight in weights:
            x = F.batch_norm((x @ weight).tanh(), None, None, training=True)
        return x.square().sum()

    return fn, [x, *(torch.randn(C, C, dtype=torch.float64) for _ in range(layers))]


def test_deep_batch_norm_is_linear_in_depth():
    """16 layers with a barrier each, forward and backward: at most 2.5 times the graph's own operators."""
    sizes = {}
    for layers in (4, 16):
        fn, tensors = deep(layers)
        graph, plan = planned(fn, *tensors, dims=(0, *[None] * layers), joint=True)
        inside = sum(len(loop.nodes) for loop in plan.loops)
        assert inside <= 2.5 * sum(n.op == "call_function" for n in graph.nodes)
        assert len(plan.loops) <= 2 * layers + 2
        sizes[layers] = inside
    assert sizes[16] <= 4.5 * sizes[4]


def test_a_loop_runs_as_late_as_its_results_are_needed():
    """A forward pass whose results only matter after the labels are counted runs after that, once."""

    def fn(x, w, labels):
        count = (labels >= 0).sum()
        return ((x @ w).tanh().sum(1) * labels / count).sum()

    labels = torch.randn(B, dtype=torch.float64)
    _, plan = planned(fn, x, w, labels, dims=(0, None, 0))
    assert sum(products(loop) for loop in plan.loops) == 1


def test_a_partial_sum_of_an_early_loop_stays_partial():
    """Divided by a count that comes later, the sum is not finished in between: the model runs once."""

    def fn(x, w, labels):
        total = ((x @ w).tanh() * labels[:, None]).sum()
        return total / (labels > 0).sum() * 3

    labels = torch.randn(B, dtype=torch.float64)
    _, plan = planned(fn, x, w, labels, dims=(0, None, 0))
    assert sum(products(loop) for loop in plan.loops) == 1
