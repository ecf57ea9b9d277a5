"""A step in which a tensor's number says where to slice: captured, the slice taken of what is whole."""

import capturing
import pytest
import small
import torch
from torch import nn
from torch.nn import functional as F

from accumcompile.ir.arithmetic import first_that_holds

TIME = 5


def data(size, seed):
    """Sequences, and a position that differs from call to call."""
    x, _ = small.data(size * TIME, seed)
    return x.view(size, TIME, -1), torch.tensor((1, -2)[seed % 2])


def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3, dtype=torch.float64)


def in_time(model, x, start):
    out = model(x)
    loss = out.narrow(1, start, 2).square().mean() + out.mean()
    loss.backward()
    return loss.detach()


def in_batch(model, x, start):
    """What follows the slice has nothing left to split: it runs whole."""
    out = model(x)
    loss = out.narrow(0, start, 2).square().mean() + out.tanh().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("by", [capturing.decorated, capturing.by_name])
@pytest.mark.parametrize("step", [in_time, in_batch])
def test_narrow_from_a_tensor(step, by):
    ran = capturing.same(step, model(), data=data, by=by)
    assert ran.roads == ["fused", "fused"]


@pytest.mark.inductor
@pytest.mark.usefixtures("fresh_dynamo")
def test_narrow_from_a_tensor_through_inductor():
    capturing.same(in_time, model(), data=data, lowering="inductor")


@pytest.mark.usefixtures("fresh_dynamo")
def test_dynamos_setting_is_put_back():
    """The user's own compiled functions break their graphs at ``item()`` as before."""
    capturing.same(in_time, model(), data=data)
    assert not torch._dynamo.config.capture_scalar_outputs


def test_the_first_condition_that_holds():
    assert first_that_holds(1, False, 2, True, 3, True) == 2


def counts(model, x, y):
    """A size that data decides, and that a check makes the number 3."""
    loss = F.cross_entropy(model(x), y)
    seen = torch.zeros(3, dtype=torch.long)
    seen += torch.bincount(y, minlength=3)
    loss.backward()
    return loss.detach(), seen


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_a_size_of_data_that_is_known_in_the_end(lowering):
    capturing.same(counts, model(), data=small.data, lowering=lowering)
