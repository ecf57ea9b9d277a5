"""The warning of a step of which little could be split, and what explain() says of one."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from small import eager, net

from accumcompile import AccumulateWarning, accumulate
from accumcompile.diagnostics.errors import AccumulateError

HIDDEN = 1024


def sorted_within(model, x, y):
    """A step that sorts each hidden feature across the batch, several times."""
    hidden = model[0](x).sort(0).values.cumsum(0).sort(0).values
    loss = F.mse_loss(model[2](hidden), y)
    loss.backward()
    return loss.detach()


def mixed(model, x, y):
    """A step that computes one value from the whole batch."""
    loss = torch.linalg.svdvals(x).sum() * model.first.weight.mean()
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


def test_a_batch_that_is_sorted_within_the_model_is_told():
    with pytest.warns(AccumulateWarning, match="AC035: little of the step could be split") as said:
        call(sorted_within, 4096)
    (text,) = (str(w.message) for w in said if "AC035" in str(w.message))
    assert "hidden = model[0](x).sort(0)" in text


@pytest.mark.parametrize(("step", "rows"), [(at_once, 4096), (sorted_within, 64)])
def test_what_is_split_and_what_is_small_is_not_worth_a_word(step, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        call(step, rows)


def test_strict_refuses_it():
    with pytest.raises(AccumulateError, match="AC035"):
        call(sorted_within, 4096, strict=True)


def test_the_headline_says_that_nothing_was_split():
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    headline = str(eager(mixed).explain(net(), x, y)).splitlines()[0]
    assert headline.endswith("a batch of 12 ran whole: nothing could be split")
