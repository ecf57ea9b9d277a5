"""Outputs beside the loss: differentiable as in eager, and free as long as no one differentiates them."""

import gc
import weakref

import pytest
import small
import torch
from capturing import decorated, same
from torch import nn
from torch.nn import functional as F

from accumcompile.step.compiler import Compiler

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.fixture
def compiled(monkeypatch):
    """The roads of the pieces that were compiled, in order."""
    pieces = []
    compile_piece = Compiler.compile

    def counted(self, gm, road, *args):
        pieces.append(road)
        return compile_piece(self, gm, road, *args)

    monkeypatch.setattr(Compiler, "compile", counted)
    return pieces


def both_differentiated(model, x, y):
    """The loss, then a penalty on the logits that are still alive."""
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward(retain_graph=True)
    (0.1 * logits.square().sum()).backward()
    return loss.detach(), logits.detach()


def test_logits_are_differentiated_after_the_loss(compiled):
    """The fused road for the loss, and a second forward only for the logits, captured once."""
    ran = same(both_differentiated, small.net())
    assert [ran.roads.count(road) for road in ("fused", "forward", "backward")] == [4, 2, 2]
    assert [compiled.count(road) for road in ("fused", "forward", "backward")] == [2, 1, 1]
    assert {run.split.batch for run in ran.runs} == {12, 7}  # the second forward is split as well


def test_logits_are_differentiated_before_the_loss():
    """The order of the backward calls does not matter."""

    def step(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        torch._dynamo.graph_break()
        logits.backward(torch.ones_like(logits), retain_graph=True)
        (2 * loss).backward()
        return loss.detach()

    roads = same(step, small.net()).roads
    assert [roads.count(road) for road in ("fused", "forward", "backward")] == [2, 2, 2]


def test_logits_and_loss_are_differentiated_at_once():
    """One backward call from both: their gradients add up."""

    def step(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        torch._dynamo.graph_break()
        torch.autograd.backward([loss, logits], [torch.full_like(loss, 3), torch.ones_like(logits)])
        return loss.detach()

    same(step, small.net(), sizes=(12,))


def test_a_scalar_that_the_loss_is_computed_from():
    """A term of the loss that is returned alive is no second loss, and can be differentiated later."""

    def step(model, x, y):
        term = F.cross_entropy(model(x), y)
        loss = 2 * term + model.second.weight.square().sum()
        torch._dynamo.graph_break()
        loss.backward(retain_graph=True)
        term.backward()
        return loss.detach(), term.detach()

    ran = same(step, small.net(), sizes=(12,))
    assert ran.roads == ["fused", "forward", "backward"]


def test_an_output_that_is_never_differentiated_costs_no_second_capture(compiled):
    """Logits that only metrics read, after the backward."""

    def step(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        right = (logits.argmax(1) == y).double().mean()
        return loss.detach(), right, logits

    ran = same(step, small.net())
    assert "forward" not in compiled and "backward" not in compiled
    assert "backward" not in ran.roads


def test_a_live_output_keeps_no_batch_alive():
    """What waits for a backward that never comes holds nothing of a batch of long ago."""

    def step(model, x, y):
        logits = model(x)
        F.cross_entropy(logits, y).backward()
        return logits.detach()

    ours, _ = decorated(step)
    model, (x, y) = small.net(), small.data(12)
    ours(model, x, y)
    left = weakref.ref(x)
    del x, y
    gc.collect()
    assert left() is None


class Normed(nn.Module):
    """BatchNorm: running statistics that every forward updates."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.double()

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


def test_buffers_are_updated_once():
    """BatchNorm: running the forward again for the logits leaves the running statistics alone."""
    torch.manual_seed(0)
    ran = same(both_differentiated, Normed())
    assert ran.given[0].norm.num_batches_tracked == 2


def test_live_logits_may_be_edited_in_place():
    """After the backward the logits are the user's own: metrics that edit them work as in eager."""

    def step(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        with torch.no_grad():
            logits[logits < 0] = 0
        return loss.detach(), logits.clamp_(max=1).detach()

    same(step, small.net())


def test_inputs_edited_before_the_backward_are_refused():
    """As in eager: what the backward of the logits reads may not be changed in place before it."""

    def step(model, x, y):
        logits = model(x)
        F.cross_entropy(logits, y).backward(retain_graph=True)
        with torch.no_grad():
            model.second.weight.add_(1)
        logits.sum().backward()

    ours, _ = decorated(step)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ours(small.net(), *small.data(12))


def with_dropout(model, x, y):
    """The logits' own gradients tell which elements were dropped: those of zero."""
    logits = F.dropout(model.second(x), 0.5)
    loss = logits.square().mean() * y.shape[0]
    torch._dynamo.graph_break()
    loss.backward(retain_graph=True)
    model.zero_grad()
    logits.backward(torch.ones_like(logits))
    return logits.detach()


@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_a_second_forward_draws_the_same_numbers(lowering):
    """The bias of the last layer gets the mask's column sums: those of the logits that were returned."""
    ours, _ = decorated(with_dropout, lowering=lowering)
    model = small.net()
    model.second = nn.Linear(4, 3, dtype=torch.float64)
    for seed in (0, 1):
        torch.manual_seed(seed)
        logits = ours(model, *small.data(12))
        kept = (logits != 0).sum(0).double() * 2
        torch.testing.assert_close(model.second.bias.grad, kept)
        model.zero_grad()
