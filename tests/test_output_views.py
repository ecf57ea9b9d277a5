"""Views of a value that is used beside them behind a graph break, or returned: AOTAutograd makes them by metadata."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from accumcompile import accumulate

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

VIEWS = {
    "slice": lambda h: h[:, 1:],
    "slice of the last": lambda h: h[..., 3:7],
    "slice with a step": lambda h: h[:, ::2],
    "slice of the batch": lambda h: h[1:],
    "narrow": lambda h: h.narrow(1, 2, 3),
    "select": lambda h: h[:, 2],
    "select in the last": lambda h: h[..., -1],
    "transpose": lambda h: h.transpose(1, 2),
    "batch second": lambda h: h.transpose(0, 1),
    "heads": lambda h: h.view(h.shape[0], 8, 3, 4).transpose(1, 2),
    "chunks": lambda h: h.chunk(3, -1),
    "split": lambda h: h.split([4, 8], -1),
    "unbind": lambda h: h.unbind(1)[1:3],
    "expand": lambda h: h.unsqueeze(1).expand(-1, 3, -1, -1),
    "diagonal": lambda h: h.diagonal(dim1=1, dim2=2),
    "unfold": lambda h: h.unfold(1, 2, 1),
    "views of a view": lambda h: (h[:, 1:][:, :, 2:], h[:, 1:], h[:, 1:].transpose(1, 2)),
    "of another dtype": lambda h: torch.view_as_real(torch.view_as_complex(h.view(h.shape[0], 8, 6, 2))[:, 1:]),
}
views = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def loss_of(h, parts):
    ramps = [part * torch.arange(part.numel(), dtype=part.dtype).view(part.shape) for part in pytree.tree_leaves(parts)]
    return h.pow(3).mean() + sum(ramp.square().mean() for ramp in ramps) / 1e3


def behind_a_break(view):
    def step(w, x):
        h = torch.tanh(x @ w)
        parts, part_of_x = view(h), x[:, 1:]
        torch._dynamo.graph_break()
        loss = loss_of(h, parts) + (part_of_x * h[:, 1:, :1]).mean()
        loss.backward()
        return loss.detach()

    return step


def returned(view):
    def step(w, x):
        h = torch.tanh(x @ w)
        parts = view(h)
        loss = loss_of(h, parts)
        loss.backward()
        return loss.detach(), h, parts

    return step


def data():
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(16, 12, dtype=torch.float64) / 4)
    return w, torch.randn(6, 8, 16, dtype=torch.float64)


def assert_equal(step, lowering="eager"):
    w, x = data()
    expected, gradient = step(w, x), w.grad
    w.grad = None
    decorated = accumulate(steps=3, lowering=lowering, batch_dims={"x": 0})(step)
    torch.testing.assert_close(decorated(w, x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(w.grad, gradient, rtol=1e-9, atol=1e-9)
    return decorated.explain(w, x)


@views
@pytest.mark.filterwarnings("ignore:.*AC030")
def test_behind_a_graph_break(view):
    assert_equal(behind_a_break(view))


@views
def test_returned(view):
    assert_equal(returned(view))


@pytest.mark.inductor
@pytest.mark.filterwarnings("ignore:.*AC030")
@pytest.mark.parametrize("name", ["slice", *(pytest.param(n, marks=pytest.mark.slow) for n in ("select", "chunks"))])
def test_compiled(name):
    assert_equal(behind_a_break(VIEWS[name]), "inductor")


@pytest.mark.filterwarnings("ignore:.*AC030")
def test_views_are_not_assembled():
    """What a loop yields for the graph behind the break: the projection alone, and not its three parts."""
    report = assert_equal(behind_a_break(VIEWS["chunks"]))
    assert [y.shape for y in report.loops[0].ys] == [(6, 8, 12)]
