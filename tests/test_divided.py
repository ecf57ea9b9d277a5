"""Every so-manieth sample, and batches cut to a multiple: split where the batch is one, captured once for each kind."""

import capturing
import pytest
import small
import torch
from capturing import by_name, decorated


def taking_turns(model, x, y):
    z = model(x)
    pairs = z[: len(z) // 2 * 2]
    loss = (pairs[::2] * pairs[1::2]).mean() + z[::2].square().mean()
    loss.backward()
    return loss.detach()


def a_half(model, x, y):
    z = model(x)
    loss = z[: len(z) // 2].square().mean() + z.sin().mean()
    loss.backward()
    return loss.detach()


def by_position(model, x, y):
    z = model(x)
    loss = z[torch.arange(0, len(z), 2)].square().mean() + z.sin().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("by", [decorated, by_name])
@pytest.mark.parametrize("step", [taking_turns, a_half, by_position])
def test_an_odd_batch_gathers_and_an_even_one_never_does(step, by):
    ran = capturing.same(step, small.net(), sizes=(13, 12, 7, 16), by=by)
    gathers = [[b.kind for b in run.plan.barriers].count("gather") for run in ran.runs if run.plan.road == "fused"]
    assert [bool(count) for count in gathers] == [True, False, True, False]
    assert ran.plans == 2


def test_a_step_along_another_dimension_asks_nothing():
    def step(model, x, y):
        z = model(x)
        loss = z[:, ::2].square().mean()
        loss.backward()
        return loss.detach()

    def sequences(batch, seed):
        drawn = torch.Generator().manual_seed(seed)
        return torch.randn(batch, batch - 2, 4, dtype=torch.float64, generator=drawn), None

    ran = capturing.same(step, small.net(), sizes=(13, 12, 8, 9, 11), data=sequences)
    assert ran.plans == 2  # one length, then any
