"""Sizes and counts that the data decides, as Python numbers: the graph breaks there, and what comes before is split."""

import capturing
import pytest
import small
import torch
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateWarning

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning"),
]

SIZES = (12, 13, 12, 9)


class SortedExperts(nn.Module):
    """Each expert gets its samples in one piece: sorted by expert, and cut by their counts."""

    def __init__(self, experts=3):
        super().__init__()
        self.gate = nn.Linear(4, experts, dtype=torch.float64)
        self.experts = nn.ModuleList(nn.Linear(4, 3, dtype=torch.float64) for _ in range(experts))

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=len(self.experts))
        parts = x[order].split(counts.tolist())
        out = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        back = torch.empty_like(out)
        back[order] = out
        return back * weight[:, None]


def trained(loss_of):
    def step(model, x, y):
        loss = loss_of(model, x, y)
        loss.backward()
        return loss.detach()

    return step


def cut_by_counts(model, x, y):
    order = y.argsort(stable=True)
    parts = model(x)[order].split(torch.bincount(y, minlength=3).tolist())
    return sum(part.sum(0).square().mean() for part in parts)


def each_class(model, x, y):
    out = model(x)
    return sum(F.cross_entropy(out[y == c], y[y == c]) for c in y.unique().tolist())


def rows_of_one_class(model, x, y):
    out = model(x)
    rows = (y == 1).nonzero().flatten().tolist()
    return out[rows].square().sum() + F.cross_entropy(out, y)


def weighted_by_counts(model, x, y):
    counts = torch.bincount(y, minlength=3).tolist()
    weight = torch.tensor([1 / max(n, 1) for n in counts], dtype=torch.float64)
    return F.cross_entropy(model(x), y, weight=weight)


LOSSES = {f.__name__: f for f in (cut_by_counts, each_class, rows_of_one_class, weighted_by_counts)}


@pytest.mark.parametrize("name", LOSSES)
def test_what_comes_before_the_number_is_split(name):
    ran = capturing.same(trained(LOSSES[name]), small.net(), sizes=SIZES)
    assert len(ran.runs) >= len(SIZES), "the model, at each call"
    assert all(len(run.split) == 3 for run in ran.runs)


def test_experts_whose_samples_are_sorted():
    torch.manual_seed(0)
    step = trained(lambda model, x, y: F.cross_entropy(model(x), y))
    ran = capturing.same(step, SortedExperts(), sizes=SIZES)
    assert {"forward", "backward"} <= set(ran.roads)
    assert all(len(run.split) == 3 for run in ran.runs)


def test_other_counts_are_no_new_capture():
    """Once the counts have been seen to vary."""
    step = trained(cut_by_counts)
    ours, model = small.eager(step), small.net()
    for seed in range(4):
        ours(model, *small.data(24, seed))
    before = capturing.frames()
    for seed in range(4, 12):
        ours(model, *small.data(24, seed))
    assert capturing.frames() == before


def test_numbers_for_the_log_cost_nothing():
    def step(model, x, y):
        counts = {f"n_{c}": n for c, n in enumerate(torch.bincount(y, minlength=3).tolist())}
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return {"loss": loss.item(), **counts}

    ran = capturing.same(step, small.net(), sizes=SIZES)
    assert ran.roads.count("fused") == len(SIZES)


@pytest.mark.filterwarnings("default::accumcompile.AccumulateWarning")
def test_a_list_that_is_never_twice_as_long_runs_whole_in_the_end():
    """As with plain torch.compile, and said; the model before it is split as ever."""
    step = trained(rows_of_one_class)
    ours, model = small.eager(step, steps=3), small.net()
    with torch._dynamo.config.patch(recompile_limit=3), pytest.warns(AccumulateWarning, match="AC037") as said:
        for seed in range(8):
            small.assert_equal(ours, model, *small.data(12, seed))
            model.zero_grad()
    assert len([w for w in said if getattr(w.message, "code", "") == "AC037"]) == 1
    assert (12, 3) in small.runs(ours, model, *small.data(12, 20))
