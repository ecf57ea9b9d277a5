"""Floats that a step keeps in Python: the average of its loss, a temperature that falls. No value is captured anew."""

from __future__ import annotations

from collections.abc import Callable

import capturing
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateError
from accumcompile.capture.aot import kept_numbers

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
CALLS = torch._dynamo.config.recompile_limit + 2


class Keeper(nn.Module):
    """Has floats of its own, which ``loss_of`` reads and replaces."""

    def __init__(self, loss_of: Callable):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3, dtype=torch.float64)
        self.register_buffer("level", torch.tensor(0.25, dtype=torch.float64))
        self.loss_of = loss_of
        self.scale, self.average, self.seen = 1.0, 0.5, 0.0

    def forward(self, x, y):
        return self.loss_of(self, self.linear(x), y)


def falling(model, out, y):
    model.scale = model.scale * 0.98
    return F.cross_entropy(out / model.scale, y)


def read_before_it_falls(model, out, y):
    scale = model.scale
    model.scale = max(0.1, scale - 0.03)
    return F.cross_entropy(out, y) + scale * out.square().mean()


def average(model, out, y):
    loss = F.cross_entropy(out, y)
    model.average = 0.9 * model.average + 0.1 * loss.item()
    return loss


def average_that_weighs(model, out, y):
    loss = F.cross_entropy(out, y)
    model.average = 0.9 * model.average + 0.1 * float(loss.detach())
    return loss * (1 + model.average)


def only_kept(model, out, y):
    """No tensor is computed of it."""
    model.scale *= 0.98
    return F.cross_entropy(out, y)


def several(model, out, y):
    """With the batch's size among what they are computed of."""
    model.scale *= 0.98
    model.average = 0.5 * (model.average + model.scale)
    model.seen += 0.5 * len(out)
    return F.cross_entropy(out / model.scale, y) * model.average


def behind_a_break(model, out, y):
    model.scale *= 0.98
    torch._dynamo.graph_break()
    model.average = model.average * model.scale
    return F.cross_entropy(out * model.average, y)


def of_a_buffer_that_changes(model, out, y):
    """The number is that of before the change."""
    model.average = model.average * model.level.item()
    model.level.mul_(0.75).add_(0.1)
    return F.cross_entropy(out, y) * (1 + model.level)


LOSSES = (
    falling,
    read_before_it_falls,
    average,
    average_that_weighs,
    only_kept,
    several,
    behind_a_break,
    of_a_buffer_that_changes,
)


def step(model, x, y):
    loss = model(x, y)
    loss.backward()
    return loss.detach(), model.scale, model.average, model.seen


WAYS = [*((loss_of, capturing.decorated) for loss_of in LOSSES), (falling, capturing.by_name)]


@pytest.mark.parametrize(("loss_of", "by"), WAYS, ids=lambda f: f.__name__)
def test_every_call_has_its_own(loss_of, by):
    if torch.__version__.startswith("2.11") and loss_of in (falling, several, behind_a_break):
        pytest.skip("torch 2.11 takes what is computed of a float, and read by a tensor's operator, for a constant")
    ran = capturing.same(step, Keeper(loss_of), sizes=(12,) * CALLS, by=by)
    assert {run.split.rows for run in ran.runs if run.plan.loops} == {4}
    assert ran.plans <= 4, "as a constant, and as a variable when it has changed"


@pytest.mark.parametrize("loss_of", (falling, average), ids=lambda f: f.__name__)
def test_as_outputs_of_the_graph_they_are_constants(loss_of, monkeypatch):
    """The control."""
    monkeypatch.setattr(kept_numbers, "beside", lambda gm: (gm, None))
    with pytest.raises(AccumulateError, match="AC023"):
        capturing.same(step, Keeper(loss_of), sizes=(12,) * CALLS)


@pytest.mark.inductor
def test_through_inductor():
    capturing.same(step, Keeper(several), sizes=(12,) * 3, lowering="inductor")
