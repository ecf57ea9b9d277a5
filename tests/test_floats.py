"""Buffers without dimensions in float64: Dynamo takes them for Python floats, and loses what changes them in place."""

import capturing
import pytest
import small
import torch
from torch import nn
from torch._dynamo.symbolic_convert import TensorifyState
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
roads = pytest.mark.parametrize("by", [capturing.decorated, capturing.by_name])


class Averaged(nn.Module):
    """Keeps an average of its loss, and a count of its samples."""

    def __init__(self, reads=False):
        super().__init__()
        self.reads = reads
        self.linear = nn.Linear(4, 3, dtype=torch.float64)
        self.register_buffer("average", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(3))

    def forward(self, x, y):
        loss = F.cross_entropy(self.linear(x), y)
        if self.reads:
            loss = loss * self.average.item()
        with torch.no_grad():
            self.average.lerp_(loss.detach(), 0.1)
            self.seen += len(x)
        return loss


def step(model, x, y):
    loss = model(x, y)
    loss.backward()
    return loss.detach()


@roads
@pytest.mark.parametrize("reads", [False, True])
def test_they_are_changed_in_place(by, reads):
    capturing.same(step, Averaged(reads), by=by)


def evaluate(model, x, y):
    """Without a graph break, at which Dynamo would forget by itself."""
    with torch.no_grad():
        return model(x, y)


@roads
def test_floats_of_an_earlier_capture_are_forgotten(by):
    """Dynamo knows them by the names of their sources."""
    torch.compile(evaluate, backend="aot_eager")(Averaged(), *small.data(12))
    assert TensorifyState.force_specializations
    capturing.same(evaluate, Averaged(), by=by)


@pytest.mark.inductor
def test_they_are_changed_in_place_through_inductor():
    capturing.same(step, Averaged(), lowering="inductor")
