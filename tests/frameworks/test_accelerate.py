"""A loop of accelerate's, decorated: the full batch's parameters."""

import accelerate_loop as example
import pytest
import torch
from splits import recorded
from tagger import difference

from accumcompile import AccumulateWarning


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def test_a_decorated_step():
    split = example.split_step(lowering="eager", strict=True)
    full = example.trained(example.train_step)
    ours, runs = recorded(split, lambda: example.trained(split))
    assert runs == 2 * [("fused", 16, 8), ("fused", 16, 8), ("fused", 12, 6)]
    assert difference(full, ours) < 1e-13


def test_accelerates_own_accumulation_is_another_result():
    assert difference(example.trained(example.train_step), example.trained_by_accelerate()) > 0.1


def test_accelerates_accumulation_beside_ours_is_told():
    split = example.split_step(lowering="eager")
    with pytest.warns(AccumulateWarning, match=r"AC042.*Accelerator\.gradient_accumulation_steps is 2"):
        example.trained(split, gradient_accumulation_steps=2)
