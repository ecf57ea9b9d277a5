"""Sizes that data decides, and lists of sizes: what no two values share, and what arithmetic may be done on."""

import capturing
import pytest
import small
import torch
import torch.nn.functional as F

from accumcompile.passes import deduplicate
from accumcompile.passes.manager import Context


def mined(z, y):
    """The samples that have a partner, against all."""
    keep = torch.where((y[:, None] == y[None]).sum(1) > 1)[0]
    return torch.cdist(z, z.detach() + 1)[keep].mean()


def mined_twice(model, x, y):
    """The same lookup, once to learn and once to measure: each has a size of its own."""
    z = model(x)
    loss = mined(z, y)
    with torch.no_grad():
        measured = mined(z.detach(), y)
    loss.backward()
    return loss.detach(), measured


def counted_twice(model, x, y):
    hidden = model.first(x)
    loss = (hidden * int((y > 0).sum())).square().mean() + (hidden * int((y > 0).sum())).mean()
    loss.backward()
    return loss.detach()


def chosen_in_turn(model, x, y):
    """Each lookup's size hangs on the one before."""
    z = model.first(x)[y > 0]
    z = z[z[:, 0] > 0]
    loss = z.square().sum() + model.second(z)[z[:, 1] > 0].sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("step", [mined_twice, counted_twice, chosen_in_turn])
def test_equal_lookups_keep_their_sizes_apart(step):
    ran = capturing.same(step, small.net(), sizes=(12, 13))
    assert all(len(run.split) == 3 for run in ran.runs)


def test_what_data_decides_is_merged_with_nothing():
    def twice(x):
        return x[(x > 0).nonzero()[:, 0]], x[(x > 0).nonzero()[:, 0]]

    gm = torch.fx.experimental.proxy_tensor.make_fx(twice, tracing_mode="symbolic")(torch.randn(7))
    before, after = (
        [node.target for node in graph.nodes].count(torch.ops.aten.nonzero.default)
        for graph in (gm.graph, deduplicate(gm, Context()).graph)
    )
    assert before == after == 2
    assert [n.target for n in deduplicate(gm, Context()).graph.nodes].count(torch.ops.aten.gt.Scalar) == 1


def parts(sizes):
    """A step on the parts of the logits."""

    def step(model, x, y):
        logits = model(x)
        first, *rest = logits.split(sizes(len(x)))
        loss = first.square().mean() + sum(part.sum() * (i + 1) for i, part in enumerate(rest))
        loss.backward()
        return loss.detach()

    return step


@pytest.mark.parametrize(
    "sizes",
    [
        lambda n: [n - 4, 2, 2],
        lambda n: [2, n - 4, 2],
        lambda n: [n - n // 2, n // 2],
        lambda n: [n // 3, n // 3, n - n // 3 * 2],
        lambda n: n // 2,
    ],
    ids=["first", "middle", "halves", "thirds", "one size"],
)
def test_parts_whose_sizes_are_computed(sizes):
    ran = capturing.same(parts(sizes), small.net(), sizes=(12, 13))
    assert all(len(run.split) in (2, 3) for run in ran.runs), "of three blocks, three samples stay together"


def amounts(model, x, y):
    """Padding, shifts, counts and values that are computed from the batch's size."""
    n, logits = len(x), model(x)
    padded = F.pad(logits, (1, 0, n - 4, 20 - n), value=0.5)
    shifted = logits.roll(n // 2, 0).roll(n - 1, 1)
    ramp = torch.arange(n - 1, 3 * n - 1, 2, dtype=x.dtype)[:, None] / n
    loss = padded.square().mean() + (shifted * logits * ramp).mean() + (logits.mean(0).expand(n, 3) - logits).var()
    loss.backward()
    return loss.detach()


def test_amounts_that_are_computed():
    capturing.same(amounts, small.net(), sizes=(12, 13))
