"""The roads of a captured graph: which is taken, and that each gives the full batch's gradients."""

import pytest
import small
import torch
from capturing import Ran, decorated, same, sgd
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def test_a_loss_takes_the_fused_road():
    """Forward and backward run in one loop: no second forward."""
    ran = same(small.plain, small.net())
    assert ran.roads == ["fused", "fused"] and ran.plans == 1
    labels, model = ran.runs[0].plan.loops
    assert labels.nodes < 10 < model.nodes


def test_a_loss_that_is_scaled_outside_of_the_graph():
    """The tangent that really comes is applied: whole numbers, tensors, and a sum of two losses."""

    def step(model, x, y, scale):
        loss = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        (loss * scale + 2 * loss).backward()
        return loss.detach()

    factors = [1.0, 3, torch.tensor(0.25, dtype=torch.float64)]
    for scale in factors:
        torch._dynamo.reset()
        ran = same(step, small.net(), data=lambda size, seed, s=scale: (*small.data(size, seed), s))
        assert ran.roads == ["fused", "fused"]


def test_a_loss_that_is_added_to_an_earlier_graphs():
    """The gradient of that graph's input is the tangent itself."""

    def step(model, x, y):
        penalty = sum(p.square().sum() for p in model.parameters())
        torch._dynamo.graph_break()
        loss = penalty + F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    ran = same(step, small.net())
    assert "fused" in ran.roads


class Clip(torch.autograd.Function):
    """Clips its gradient, which is not linear in it."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-0.02, 0.02)


@pytest.mark.parametrize("scale", [1.0, 3.0, torch.tensor(0.5, dtype=torch.float64)], ids=str)
def test_a_function_that_clips_its_gradient_takes_the_two_pass_road(scale):
    """The backward is not linear in its tangent, so the real tangent must go through it."""

    def step(model, x, y):
        loss = F.cross_entropy(model.second(Clip.apply(model.first(x))), y)
        torch._dynamo.graph_break()
        (scale * loss).backward()
        return loss.detach()

    ran = same(step, small.net(), sizes=(12,))
    assert ran.roads == ["forward", "backward"]


class Double(torch.autograd.Function):
    """A custom backward that is linear."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def test_a_function_with_a_linear_backward_is_proven_so():
    """A custom autograd.Function costs no second forward where its backward is linear."""

    def step(model, x, y):
        loss = F.cross_entropy(Double.apply(model(x)), y)
        loss.backward()
        return loss.detach()

    assert same(step, small.net(), sizes=(12,)).roads == ["fused"]


def test_a_model_compiled_without_its_loss_is_two_pass():
    """The logits come out of the graph, and their gradient into it."""

    def step(model, x, y):
        logits = model(x)
        torch._dynamo.graph_break()
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach()

    with pytest.warns(match="AC030"):
        ran = same(step, small.net())
    assert sorted(set(ran.roads)) == ["backward", "forward", "fused"]


def test_two_losses_of_one_graph_are_two_pass():
    """No one scalar is the sink: each loss is differentiated by itself."""

    def step(model, x, y):
        logits = model(x)
        first, second = F.cross_entropy(logits, y), logits.square().mean()
        first.backward(retain_graph=True)
        (3 * second).backward()
        return first.detach(), second.detach()

    ran = same(step, small.net(), sizes=(12,))
    assert ran.roads == ["forward", "backward", "backward"]


# The backward half of the fused road


def test_kept_gradients_become_the_gradients():
    """No second copy: what the forward call accumulated is multiplied in place and becomes ``.grad``.

    All else that is saved are inputs that eager saves too.
    """
    kept = []

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        kept.extend(t.data_ptr() for t in loss.grad_fn.saved_tensors)
        (3 * loss).backward()
        return loss.detach()

    ours, _ = decorated(step)
    model, (x, y) = small.net(), small.data(12)
    ours(model, x, y)
    inputs = {t.data_ptr() for t in (x, y, *model.parameters())}
    assert [p.grad.data_ptr() for p in model.parameters()] == [k for k in kept if k not in inputs]


def test_a_graph_that_is_kept_is_differentiated_twice():
    """``retain_graph=True``: the gradients of both calls add up, and the first call spoils nothing."""

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        (3 * loss).backward(retain_graph=True)
        loss.backward()
        return loss.detach()

    assert same(step, small.net()).roads == ["fused", "fused"]


def test_a_second_forward_before_the_first_backward():
    """Accumulators belong to one forward call: the losses of two batches are alive at once."""

    def step(model, x, y):
        first = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        second = F.cross_entropy(model(-x), y)
        torch._dynamo.graph_break()
        second.backward()
        (2 * first).backward()
        return first.detach(), second.detach()

    assert set(same(step, small.net()).roads) == {"fused"}


def test_calls_do_not_share_accumulators():
    """The gradients of an earlier call, still held, are not written to by a later one."""
    ours, _ = decorated(small.plain)
    model = small.net()
    ours(model, *small.data(12, seed=0))
    held = [p.grad for p in model.parameters()]
    before = [g.clone() for g in held]
    model.zero_grad()
    ours(model, *small.data(12, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))
    assert {p.grad.data_ptr() for p in model.parameters()}.isdisjoint(g.data_ptr() for g in held)


class Biases(nn.Module):
    """Two biases with one gradient between them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3, bias=False, dtype=torch.float64)
        self.first = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        return self.linear(x) + self.first + self.second


def test_one_node_is_the_gradient_of_two_parameters():
    """Each parameter has a gradient of its own: editing one in place leaves the other alone."""

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        (2 * loss).backward()
        model.first.grad.zero_()
        return loss.detach()

    torch.manual_seed(0)
    assert set(same(step, Biases()).roads) == {"fused"}


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_are_zeroed_either_way(to_none):
    """``zero_grad`` in both forms: ``.grad`` is None or a tensor of zeros when the backward comes."""

    def step(model, optimizer, x, y):
        optimizer.zero_grad(set_to_none=to_none)
        loss = small.plain(model, x, y)
        optimizer.step()
        return loss

    model = small.net()
    ran: Ran = same(step, model, sgd(model), sizes=(12, 7, 12))
    assert set(ran.roads) == {"fused"} and ran.plans == 1


def test_gradients_that_are_there_are_added_to():
    """``.grad`` is not None on entry: as in eager, the same tensor is added to."""
    ours, _ = decorated(small.plain)
    model = small.net()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    held = [p.grad for p in model.parameters()]
    fresh = small.net()
    small.plain(fresh, *small.data(12))
    ours(model, *small.data(12))
    for p, mine, other in zip(model.parameters(), held, fresh.parameters(), strict=True):
        assert p.grad is mine
        torch.testing.assert_close(p.grad, other.grad + 1)


def test_parameters_that_get_no_gradient_keep_none():
    """Frozen and unused parameters, and those that only a detached value reads."""

    def step(model, x, y):
        hidden = model.first(x)
        loss = F.cross_entropy(model.second(torch.relu(hidden)).detach() + hidden[:, :3], y)
        loss.backward()
        return loss.detach()

    ran = same(step, small.net())
    assert ran.given[0].second.weight.grad is None is ran.given[0].second.bias.grad
    assert ran.given[0].first.weight.grad is not None


def test_only_what_is_asked_for_is_differentiated():
    """A frozen model but for its head: the loop accumulates the loss and the head's gradients, no more."""
    model = small.net()
    model.first.requires_grad_(False)
    ran = same(small.plain, model, sizes=(12,))
    assert len(ran.runs[0].plan.loops[-1].carry) == 3
