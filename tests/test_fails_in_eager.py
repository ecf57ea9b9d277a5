"""A step that fails without being split fails with eager's own words, on the user's line, and leaves nothing behind."""

import re

import capturing
import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
# From 2.15 on Dynamo lets the traced code raise what the operator raises: then that is what comes out.
RAISED_IN_TRACE = hasattr(torch._dynamo.exc, "FakeTensorObservedException")
told_by_us = pytest.mark.skipif(RAISED_IN_TRACE, reason="eager itself raises")


def targets_too_short(model, x, y):
    return F.cross_entropy(model(x), y[:-2])


def values_too_short(model, x, y):
    return F.mse_loss(model(x), x[:-2, :3])


def product_of_others(model, x, y):
    return (model(x) * x[1:, :3]).sum()


def labels_that_are_numbers(model, x, y):
    return F.cross_entropy(model(x), y.double())


def column_beyond(model, x, y):
    return model(x)[:, 5].sum()


def a_view_that_does_not_fit(model, x, y):
    return model(x).view(-1, 7).sum()


def features_of_another_layer(model, x, y):
    return F.cross_entropy(model(torch.cat([x, x], 1)), y)


def one_row_less(model, x, y):
    z = model(x)
    return (z[:-1] - z).square().mean()


def under_autocast(model, x, y):
    with torch.autocast("cpu", enabled=False):
        return F.cross_entropy(model(x), y[1:])


LOSSES = (
    targets_too_short,
    values_too_short,
    product_of_others,
    labels_that_are_numbers,
    column_beyond,
    a_view_that_does_not_fit,
    features_of_another_layer,
    one_row_less,
    under_autocast,
)


def trained(loss_of):
    def step(model, x, y):
        loss = loss_of(model, x, y)
        loss.backward()
        return loss.detach()

    return step


@pytest.mark.parametrize("loss_of", LOSSES, ids=lambda f: f.__name__)
def test_eagers_own_words_on_the_users_line(loss_of):
    step, model = trained(loss_of), small.net()
    with pytest.raises(Exception) as eager:
        step(model, *small.data(12))
    if RAISED_IN_TRACE and loss_of is not column_beyond:
        with pytest.raises(type(eager.value), match=re.escape(str(eager.value))):
            small.eager(step)(model, *small.data(12))
        return
    text = small.refused(small.eager(step), model, *small.data(12))
    assert text.startswith("accumcompile AC036"), text
    assert f"why   {type(eager.value).__name__}: {eager.value}\n" in text
    assert len(text.splitlines()) == 5
    assert f"in {'forward' if loss_of is features_of_another_layer else loss_of.__name__}" in text


@told_by_us
def test_the_whole_text():
    step = trained(targets_too_short)
    assert_expected_inline(
        small.refused(small.eager(step), small.net(), *small.data(12)),
        """\
accumcompile AC036: this line fails without being split, too
  test_fails_in_eager.py:N in targets_too_short
      return F.cross_entropy(model(x), y[:-2])
  why   ValueError: Expected input batch_size (12) to match target batch_size (10).
  fix   correct what it is called with: [12, 3] float64, [10] int64""",
    )


@told_by_us
@pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning")
def test_the_next_call_is_as_if_it_had_not_been():
    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    ours, model = small.eager(step), small.net()
    for _ in range(2):
        x, y = small.data(12)
        assert "AC036" in small.refused(ours, model, x, y[:-2])
    small.assert_equal(ours, model, *small.data(12))
    assert small.runs(ours, model, *small.data(12)) == [(12, 4)]


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_a_step_may_catch_it():
    def step(model, x, y):
        out = model(x)
        try:
            loss = F.cross_entropy(out, y[:-2])
        except ValueError:
            loss = F.cross_entropy(out, y)
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net())
    assert all(len(run.split) == 3 for run in ran.runs)


@told_by_us
def test_the_random_numbers_of_the_step_are_not_drawn():
    def step(model, x, y):
        return F.cross_entropy(F.dropout(model(x)), y[:-2]).backward()

    before = torch.get_rng_state()
    small.refused(small.eager(step), small.net(), *small.data(12))
    assert torch.equal(before, torch.get_rng_state())


def test_what_the_user_raises_is_the_users():
    class Strict(nn.Module):
        def forward(self, x):
            if x.dim() != 3:
                raise KeyError("x must be [B, T, C]")
            return x

    def step(model, x, y):
        Strict()(x).sum().backward()

    with pytest.raises(KeyError, match="x must be"):
        small.eager(step)(small.net(), *small.data(12))
