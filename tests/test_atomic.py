"""A captured graph that dies half-way has changed nothing; what only looks changes nothing either."""

from contextlib import contextmanager

import pytest
import small
import torch
from capturing import decorated
from torch import nn

from accumcompile.ir import loop
from accumcompile.lowering.inductor import body
from accumcompile.testing import gradients, max_rel_diff, state

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def model_of() -> nn.Module:
    """A model with running statistics, and random numbers."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double()


@contextmanager
def unchanged(model):
    """Parameters, buffers, gradients (the same tensors) and the generator are as before the block."""
    before, grads, generator = state(model), gradients(model), torch.get_rng_state()
    held = [p.grad for p in model.parameters()]
    yield
    assert max_rel_diff(before, state(model)) == 0
    assert max_rel_diff(grads, gradients(model)) == 0
    assert all(p.grad is g for p, g in zip(model.parameters(), held, strict=True))
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("call", ["first", "later"])
def test_a_bad_label(call):
    """A label out of range in the last micro-batch, without a compiler: an exception, and nothing else."""
    ours, _ = decorated(small.plain)
    model = model_of()
    x, y = small.data(12)
    if call == "later":
        ours(model, x, y)
    bad = y.clone()
    bad[11] = 99
    with unchanged(model), pytest.raises((IndexError, RuntimeError)):
        ours(model, x, bad)
    ours(model, x, y)


def interrupts_reference(monkeypatch, after):
    """KeyboardInterrupt after some micro-batches of any loop: in the reference lowering."""
    slice_rows, calls = loop.slice_rows, []

    def interrupted(x, dim, start, rows, batch):
        calls.append(start)
        if start > 0 and len(calls) > after:
            raise KeyboardInterrupt
        return slice_rows(x, dim, start, rows, batch)

    monkeypatch.setattr(loop, "slice_rows", interrupted)


@pytest.mark.parametrize("after", [0, 4, 8])
def test_an_interrupt_between_two_micro_batches(monkeypatch, after):
    """Ctrl-C in any loop: parameters, buffers, gradients and the generator are as they were."""
    ours, _ = decorated(small.plain)
    model = model_of()
    ours(model, *small.data(12))
    with monkeypatch.context() as patch, unchanged(model), pytest.raises(KeyboardInterrupt):
        interrupts_reference(patch, after)
        ours(model, *small.data(12))
    ours(model, *small.data(12))


@pytest.mark.inductor
def test_an_interrupt_in_compiled_code(monkeypatch):
    """The same between two compiled bodies, whose accumulators are updated in place."""
    ours, _ = decorated(small.plain, lowering="inductor")
    model = model_of()
    ours(model, *small.data(12))
    choose, calls = body.LoopRun._form, []

    def interrupted(self, i, *args):
        calls.append(i)
        if i > 0 and len(calls) > 4:
            raise KeyboardInterrupt
        return choose(self, i, *args)

    with monkeypatch.context() as patch, unchanged(model), pytest.raises(KeyboardInterrupt):
        patch.setattr(body.LoopRun, "_form", interrupted)
        ours(model, *small.data(12))
    ours(model, *small.data(12))


def test_a_two_pass_backward_that_is_interrupted(monkeypatch):
    """No gradient is there before all are."""

    def step(model, x, y):
        logits = model(x)
        torch._dynamo.graph_break()
        logits.backward(torch.ones_like(logits))

    ours, _ = decorated(step)
    model = small.net()
    ours(model, *small.data(12))
    with monkeypatch.context() as patch, unchanged(model), pytest.raises(KeyboardInterrupt):
        interrupts_reference(patch, 6)
        ours(model, *small.data(12))


def test_explaining_changes_nothing_that_can_be_captured():
    """``explain`` before the first call: nothing changes, no mark is left, and the step then runs as ever."""
    ours, session = decorated(small.plain)
    model, reference = small.net(), small.net()
    x, y = small.data(12)
    with unchanged(model):
        report = ours.explain(model, x, y)
    assert [graph.road for graph in report.graphs] == ["fused"]
    assert not any(name.startswith("_dynamo") for t in (x, y) for name in vars(t))
    small.plain(reference, x, y)
    with session.journal.recording() as runs:
        ours(model, x, y)
    assert [run.plan.road for run in runs] == ["fused"]
    assert max_rel_diff(gradients(reference), gradients(model)) < 1e-10
