"""The warning of outputs that are held for the full batch: where they are a large part, and large."""

import warnings

import pytest
import small
import torch

from accumcompile import AccumulateWarning, accumulate

OUTPUTS = 1024


def step(model, x):
    logits = model(x)
    loss = logits.square().mean()
    loss.backward()
    return loss.detach(), logits.detach()


def call(rows):
    """A call whose logits are OUTPUTS float32 a row."""
    accumulate(steps=4, lowering="eager")(step)(torch.nn.Linear(8, OUTPUTS), torch.randn(rows, 8))


def test_small_outputs_are_not_worth_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        call((16 << 20) // (4 * OUTPUTS) - 1)


def test_from_sixteen_mebibytes_on_they_are():
    with pytest.warns(AccumulateWarning, match="AC033") as said:
        call((16 << 20) // (4 * OUTPUTS))
    assert "16 MiB of an estimated peak of" in str(small.ours(said)[0])
