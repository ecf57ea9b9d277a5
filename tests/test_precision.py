"""Half precision: no worse than the full batch, measured against float64."""

import copy

import pytest
import small
import torch
from capturing import decorated
from torch import nn
from torch.nn import functional as F

from accumcompile.testing import gradients, max_rel_diff

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def mean_loss(model, x, y):
    return F.cross_entropy(model(x).float(), y)


def exact(model, x, y, scale=1.0):
    """The gradients in float64."""
    model = copy.deepcopy(model).double()
    (scale * F.cross_entropy(model(x.double()), y)).backward()
    return gradients(model)


def batch(size):
    x, y = small.data(size)
    return x.float(), y


def test_autocast():
    """Autocast to bfloat16: the error against float64 is at most twice the full batch's own."""

    def step(model, x, y):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    ours, session = decorated(step)
    model, plain = small.net().float(), small.net().float()
    for size in (64, 49):
        reference = exact(model, *batch(size))
        with session.journal.recording() as runs:
            ours(model, *batch(size))
        step(plain, *batch(size))
        error, full = (max_rel_diff(reference, gradients(m)) for m in (model, plain))
        assert 0 < error <= 2 * full < 0.1
        assert {g.dtype for g in gradients(model).values()} == {torch.float32}
        assert [run.plan.road for run in runs] == ["fused"]
        model.zero_grad()
        plain.zero_grad()


@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_a_model_in_bfloat16(lowering):
    """Parameters in bfloat16: 64 contributions are summed in float32, and rounded once."""

    def step(model, x, y):
        loss = mean_loss(model, x, y)
        loss.backward()
        return loss.detach()

    model = small.net().bfloat16()
    plain = copy.deepcopy(model)
    x, y = small.data(256)
    reference = exact(model, x.bfloat16(), y)
    ours, _ = decorated(step, steps=64, lowering=lowering)
    ours(model, x.bfloat16(), y)
    step(plain, x.bfloat16(), y)
    error, full = (max_rel_diff(reference, gradients(m)) for m in (model, plain))
    assert 0 < error <= 2 * full
    assert {g.dtype for g in gradients(model).values()} == {torch.bfloat16}


TINY = 2.0**-22  # of a loss: its gradients vanish in float16 (the smallest number is 2 ** -24), unless scaled


class Tiny(nn.Module):
    """A model whose gradients are too small for float16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) * TINY


def scaled(model, scaler, optimizer, x, y):
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.float16):
        loss = (model(x).float() - y.unsqueeze(1)).square().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    return loss.detach(), norm


def test_a_gradient_scaler_keeps_float16_from_underflowing():
    """The scaler's 65536 is applied outside of the graph, and must be there when float16 is computed."""
    ours, session = decorated(scaled)
    model, scaler = Tiny(), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = small.data(48)
    double = copy.deepcopy(model).double()
    (double(x) - y.unsqueeze(1)).square().mean().backward()
    with session.journal.recording() as runs:
        ours(model, scaler, optimizer, x.float(), y)
    assert [run.plan.road for run in runs] == ["forward", "backward"]
    assert max_rel_diff(gradients(double), gradients(model)) < 0.01
    assert scaler.get_scale() == 65536

    unscaled = copy.deepcopy(model)
    without = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaled(unscaled, without, torch.optim.SGD(unscaled.parameters(), lr=0.0), x.float(), y)
    assert max_rel_diff(gradients(double), gradients(unscaled)) > 0.1  # the test would notice


def test_a_gradient_scaler_skips_a_step_that_overflowed():
    """An infinite gradient of one micro-batch: no update, and half the scale, as on the full batch."""
    ours, _ = decorated(scaled)
    model, scaler = Tiny(), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = small.data(12)
    x[7] = float("inf")
    ours(model, scaler, optimizer, x.float(), y)
    assert scaler.get_scale() == 32768
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
