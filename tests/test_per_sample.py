"""Per-sample gradients by torch.func in a step: equal, and with the activations of a micro-batch."""

import capturing
import pytest
import small
import torch
from torch._functorch import vmap as functorch
from torch.func import functional_call, grad, grad_and_value, vmap
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def detached(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def of_one(model):
    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    return loss


def clipped(model, x, y):
    """DP-SGD: each sample's gradient is clipped by itself."""
    each = vmap(grad(of_one(model)), in_dims=(None, 0, 0))(detached(model), x, y)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
    scale = (1 / norms).clamp(max=1)
    for name, p in model.named_parameters():
        p.grad = torch.einsum("b...,b->...", each[name], scale) / len(x)
    return norms


def with_values(model, x, y):
    per_sample = vmap(grad_and_value(of_one(model)), in_dims=(None, 0, 0))
    each, losses = per_sample(detached(model), x, y)
    for name, p in model.named_parameters():
        p.grad = each[name].mean(0)
    return losses.mean().item()


def statistics_beside_training(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    each = vmap(grad(of_one(model)), in_dims=(None, 0, 0))(detached(model), x, y)
    return loss.detach(), sum(g.square().sum() for g in each.values())


STEPS = (clipped, with_values, statistics_beside_training)


@pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning")
@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_per_sample_gradients_in_chunks_of_a_micro_batch(step, monkeypatch):
    flat, chunks = functorch._flat_vmap, []

    def watched(func, batch_size, *args, **kwargs):
        chunks.append(batch_size)
        return flat(func, batch_size, *args, **kwargs)

    monkeypatch.setattr(functorch, "_flat_vmap", watched)
    ran = capturing.same(step, small.net(), sizes=(12, 13, 12))
    whole, ours = [12, 13, 12], [4, 4, 4, 5, 5, 3, 4, 4, 4]
    assert sorted(chunks) == sorted(whole + ours)
    assert all(len(run.split) == 3 for run in ran.runs)


def test_a_size_of_chunks_that_the_user_chose_stays(monkeypatch):
    flat, chunks = functorch._flat_vmap, []

    def watched(func, batch_size, *args, **kwargs):
        chunks.append(batch_size)
        return flat(func, batch_size, *args, **kwargs)

    def step(model, x, y):
        each = vmap(grad(of_one(model)), in_dims=(None, 0, 0), chunk_size=6)(detached(model), x, y)
        return {name: g.mean(0) for name, g in each.items()}

    monkeypatch.setattr(functorch, "_flat_vmap", watched)
    capturing.same(step, small.net(), sizes=(12,))
    assert chunks == [6, 6] * 2


def test_a_vmap_that_can_be_traced_is_split_with_the_rest():
    def step(model, x, y):
        z = model(x)
        loss = vmap(lambda row: (row * row).sum())(z).mean() + F.cross_entropy(z, y)
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net(), sizes=(12, 13))
    assert ran.roads == ["fused"] * 2
    assert all(len(run.split) == 3 for run in ran.runs)


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_a_penalty_on_the_gradient_of_each_input():
    def step(model, x, y):
        slopes = vmap(grad(lambda row: model(row[None]).sum()))(x)
        loss = F.cross_entropy(model(x), y) + ((slopes.norm(dim=1) - 1) ** 2).mean()
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net(), sizes=(12, 13))
    assert all(len(run.split) == 3 for run in ran.runs)
