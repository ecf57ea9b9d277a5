"""A step is captured once: for every batch, however often, and wherever its model comes from."""

import pytest
import small
import torch
from capturing import by_name, decorated, frames

from accumcompile.lowering.inductor import api as inductor_api

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

WAYS = pytest.mark.parametrize("by", [decorated, by_name], ids=["decorator", "backend"])


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
@WAYS
def test_ten_steps_are_captured_once(by, make):
    """``.grad`` is None, then a tensor; a scheduler moves the learning rate: nothing is captured anew."""
    model = small.net()
    optimizer = make(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    ours, session = by(small.update)
    seen = []
    with session.journal.recording() as runs:
        for seed in range(10):
            ours(model, optimizer, *small.data(12, seed), scheduler)
            seen.append(frames())
    assert len(set(seen[1:])) == 1 and len({id(run.plan) for run in runs}) == 1


@pytest.mark.inductor
def test_a_new_batch_size_compiles_nothing(monkeypatch):
    """Micro-batches and tails of the same sizes run the same compiled bodies, whatever the batch."""
    compiled = []
    compile_graph = inductor_api.compile_graph
    monkeypatch.setattr(inductor_api, "compile_graph", lambda *a: compiled.append(a) or compile_graph(*a))

    def step(model, x, y):
        loss = (model(x) - y.unsqueeze(1)).square().mean()
        loss.backward()
        return loss.detach()

    ours, _ = decorated(step, steps=None, micro_batch_size=4, lowering="inductor")
    model, reference = small.net(), small.net()
    counts = []
    for size in (10, 14, 18, 10, 22):
        step(reference, *small.data(size))
        ours(model, *small.data(size))
        counts.append((len(compiled), frames()))
    assert len(set(counts)) == 1
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# Where the model comes from

MODEL = small.net()


def uses_a_global(x, y):
    return small.plain(MODEL, x, y)


class Holder:
    def __init__(self):
        self.model = small.net()

    def step(self, x, y):
        return small.plain(self.model, x, y)


def closure():
    model = small.net()
    return lambda x, y: small.plain(model, x, y)


@pytest.mark.parametrize("step", [uses_a_global, Holder().step, closure()], ids=["global", "self", "closure"])
@WAYS
def test_where_the_model_comes_from(step, by):
    """A global, an attribute of self, a closure: the batch is what the step is called with."""
    ours, session = by(step)
    reference = small.net()
    for size in (12, 7):
        expected = small.plain(reference, *small.data(size))
        with session.journal.recording() as runs:
            torch.testing.assert_close(ours(*small.data(size)), expected)
        assert [(run.plan.road, run.split.batch) for run in runs] == [("fused", size)]
