"""Steps that random search found to fail, made as small as they can be: each equals the full batch now."""

from __future__ import annotations

import pytest
import torch
from catalogue.compare import TOLERANCE, beyond, differences, run
from catalogue.row import Case, call, seeded, sgd
from torch import nn

from accumcompile import accumulate

STEPS = (1, 2, 3, 7)


@pytest.fixture(autouse=True)
def compiled_anew(fresh_dynamo):
    """Each step is captured by itself."""


def assert_equal(
    model_of, loss_of, batch, sizes, returned=lambda model, *batch: None, steps_of=STEPS, lowering="eager"
):
    """The step of a loss equals the full batch, at every size of the batch and every number of micro-batches."""
    failures = []
    for size in sizes:
        torch._dynamo.reset()
        case = _case(model_of, loss_of, batch, returned)
        expected = run(case, case.step, size)
        step = accumulate(steps=1, lowering=lowering)(case.step)
        for steps in steps_of:
            case.restore()
            step.steps = steps
            wrong = beyond(differences(expected, run(case, step, size)))
            failures += [f"B = {size}, steps = {steps}, {name}: {wrong[name]:.1e}" for name in wrong]
    assert not failures, f"relative differences above {TOLERANCE:.0e}:\n" + "\n".join(failures)


def _case(model_of, loss_of, batch, returned) -> Case:
    with seeded(0):
        model = model_of()
    optimizer = sgd(model)

    def step(model, optimizer, *inputs):
        optimizer.zero_grad()
        loss, value = loss_of(model, *inputs), returned(model, *inputs)
        loss.backward()
        optimizer.step()
        return loss.detach(), value

    case = Case(step, lambda size: call(model, optimizer, *batch(size)), {"model": model}, [optimizer])
    case.snapshot()
    return case


def rows_and_mask(size):
    return torch.randn(size, 5), torch.arange(size) % 3 != 1


def test_masked_rows_and_the_others_together():
    """Only the sum of two sizes that depend on data is used: each is read off the value that has it."""

    def loss_of(model, x, mask):
        return model(torch.cat([x[mask], x[~mask]])).square().mean()

    assert_equal(lambda: nn.Linear(5, 4), loss_of, rows_and_mask, (6,))


def test_batch_norm_of_masked_rows_and_the_others_together():
    """The graph comes in two pieces, and the sizes that depend on data are inputs of the second: they have no hint."""

    def loss_of(model, x, mask):
        h = model[0](x)
        return model[1](torch.cat([h[mask], h[~mask]])).square().mean()

    assert_equal(lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), loss_of, rows_and_mask, (6,))


def test_masked_rows_after_batch_norm():
    """A float computed from the batch's size is read as it stands: evaluated, it would make the size a constant."""

    def loss_of(model, x, mask):
        return model(x)[mask].sum(0).square().mean()

    def batch(size):
        return torch.randn(size, 6, 3), torch.arange(size) % 3 != 1

    assert_equal(lambda: nn.BatchNorm1d(6), loss_of, batch, (6, 9))


def test_halves_of_a_flattened_batch():
    """A half holds half of an odd batch's samples and no whole number of them: such a value is not split."""

    def loss_of(model, x):
        first, second = model(x).reshape(-1).split(2 * x.shape[0])
        return (first * second).square().mean()

    layers = lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4, affine=False))  # noqa: E731
    assert_equal(layers, loss_of, lambda size: (torch.randn(size, 3),), (8, 9, 11))


def test_a_broadcast_is_returned():
    """A result whose elements share memory, and lie otherwise in it than was traced, is written once."""

    def loss_of(model, x):
        h = model(x)
        return h.expand(len(x), -1, -1, -1)[:, :, 1].square().mean() + h.reshape(-1, 2, 2, 2).cumsum(0).square().mean()

    def returned(model, x):
        return model(x).expand(len(x), -1, -1, -1)[:, :, 1].detach()

    assert_equal(lambda: nn.Linear(3, 4), loss_of, lambda size: (torch.randn(size, 2, 3),), (5,), returned)


class Looked(nn.Module):
    """Looks up, by the largest of its features, rows of a table."""

    def __init__(self):
        super().__init__()
        self.features = nn.Linear(4, 8)
        self.table = nn.Parameter(torch.randn(7, 8))

    def forward(self, x):
        pairs = self.features(x).reshape(2, -1, 8).transpose(0, 1).roll(1, 0)
        return self.table[pairs[:, :, 1:].argmax(2)].square().mean() + self.table.sum().sin()


@pytest.mark.inductor
def test_a_compiled_bridge_knows_a_multiple_of_half_the_batch_and_not_the_batch():
    """Its stride is a multiple of that: a number where the size is one."""
    assert_equal(
        Looked, Looked.forward, lambda size: (torch.randn(size, 16, 4),), (12,), steps_of=(13,), lowering="inductor"
    )


class Averaged(nn.Module):
    """Keeps an average of its penalty, and is differentiated again behind a graph break."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("average", torch.zeros(()))

    def forward(self, x, mask):
        h = self.linear(x)
        penalty = h.square().mean()
        self.average.lerp_(penalty.detach(), 0.1)
        return torch.cat([h[mask], h[~mask]]).logsumexp(0).mean() + penalty


def test_an_average_beside_values_that_are_differentiated_again():
    """The second capture comes when Dynamo is through: nothing can be traced again because of the average's number."""
    assert_equal(Averaged, Averaged.forward, rows_and_mask, (6,))


def test_rows_of_two_factors_behind_a_graph_break():
    """What comes in has ``s * t`` rows, as the targets it is compared with: the batch is ``s`` and not ``t``."""

    def loss_of(model, x, targets):
        h = torch.cat([model(x), x], 0).std(1, keepdim=True)
        size = x.shape[0]
        torch._dynamo.graph_break()
        return (h - targets.reshape(2 * size, 1)).abs().mean()

    assert_equal(lambda: nn.Linear(4, 4), loss_of, lambda size: (torch.randn(size, 4), torch.randn(size, 2)), (9,))


def test_every_pair_of_two_samples_with_every_other():
    """Sizes such as ``(s // 2) ** 2 // (s // 2)`` are computed as whole numbers."""

    def loss_of(model, x):
        pairs = torch.relu(model(x)).reshape(-1, 8)
        alike = (torch.atan(pairs) @ pairs.T).T
        return (torch.sigmoid(alike).reshape(-1).std() - 1).square() + (alike * alike.softmax(0)).sum(0).mean()

    assert_equal(lambda: nn.Linear(5, 4), loss_of, lambda size: (torch.randn(size, 5),), (10,))


def test_every_other_row_of_what_the_whole_batch_is_needed_for():
    """Their gradients are made whole and taken in halves, beside slices of whole rows: two samples stay together."""

    def loss_of(model, x):
        v = model(model(x).cumsum(0))
        return (v[::2].mean(0) - v[1::2].mean(0)).square().sum()

    assert_equal(lambda: nn.Linear(4, 4), loss_of, lambda size: (torch.randn(size, 4),), (4, 6, 10), steps_of=(2, 3, 5))
