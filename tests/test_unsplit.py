"""The warning of a step of which little could be split, and what explain() says of one."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from small import eager, net

from accumcompile import AccumulateWarning, accumulate
from accumcompile.diagnostics.errors import AccumulateError

HIDDEN = 1024


def by_hand(model, x, y):
    """A step that cuts its batch itself."""
    loss = 0.0
    for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
        loss = loss + F.mse_loss(model(a), b) / 2
    loss.backward()
    return loss.detach()


def masked_first(model, x, y):
    """A step that picks its samples before the model: data decides how many there are."""
    keep = y[:, 0] > -1e9
    loss = F.mse_loss(model(x[keep]), y[keep])
    loss.backward()
    return loss.detach()


def at_once(model, x, y):
    loss = F.mse_loss(model(x), y)
    loss.backward()
    return loss.detach()


def call(step, rows, **options):
    """A call that makes some 4 * HIDDEN * 4 bytes a row."""
    model = torch.nn.Sequential(torch.nn.Linear(4, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
    accumulate(steps=8, lowering="eager", **options)(step)(model, torch.randn(rows, 4), torch.randn(rows, 1))


def test_a_batch_that_is_cut_by_hand_is_told():
    with pytest.warns(AccumulateWarning, match="AC035: little of the step could be split") as said:
        call(by_hand, 4096)
    (text,) = (str(w.message) for w in said if "AC035" in str(w.message))
    assert "in zip(x.chunk(2), y.chunk(2)" in text


def test_a_batch_that_data_picks_is_told():
    with pytest.warns(AccumulateWarning, match="AC035") as said:
        call(masked_first, 4096)
    (text,) = (str(w.message) for w in said if "AC035" in str(w.message))
    assert "model(x[keep])" in text


@pytest.mark.parametrize(("step", "rows"), [(at_once, 4096), (by_hand, 64)])
def test_what_is_split_and_what_is_small_is_not_worth_a_word(step, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        call(step, rows)


def test_strict_refuses_it():
    with pytest.raises(AccumulateError, match="AC035"):
        call(by_hand, 4096, strict=True)


def test_the_headline_says_that_nothing_was_split():
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    headline = str(eager(by_hand).explain(net(), x, y)).splitlines()[0]
    assert headline.endswith("a batch of 12 ran whole: nothing could be split")
