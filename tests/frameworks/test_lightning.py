"""Lightning, automatic and manual, and Fabric: the full batch's parameters."""

import lightning_trainer as example
import pytest
import torch
from splits import recorded
from tagger import difference

from accumcompile import AccumulateError, AccumulateWarning, accumulate

RUNS = 2 * [("fused", 16, 8), ("fused", 16, 8), ("fused", 12, 6)]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def test_automatic_optimization():
    split = example.split_automatic(lowering="eager", strict=True)
    full = example.trained(example.Automatic, gradient_clip_val=1.0)
    ours, runs = recorded(split.training_step, lambda: example.trained(split, gradient_clip_val=1.0))
    assert runs == RUNS
    assert difference(full, ours) < 1e-13


def test_manual_optimization():
    split = example.split_manual(lowering="eager", strict=True)
    full = example.trained(example.Manual)
    ours, runs = recorded(split.training_step, lambda: example.trained(split))
    assert runs == RUNS
    assert difference(full, ours) < 1e-13


def test_lightnings_own_accumulation_is_another_result():
    full = example.trained(example.Automatic)
    own = example.trained(example.Automatic, batch=2, accumulate_grad_batches=8)
    assert difference(full, own) > 0.1


def test_a_loop_of_fabric():
    split = example.split_fabric_step(lowering="eager", strict=True)
    full = example.trained_by_fabric(example.fabric_step)
    ours, runs = recorded(split, lambda: example.trained_by_fabric(split))
    assert runs == RUNS
    assert difference(full, ours) < 1e-13


class CallsBackward(example.Automatic):
    """What must not be written: Lightning zeroes gradients behind ``training_step``."""

    def training_step(self, batch, batch_idx):
        loss = self.tagger(**batch)["loss"]
        loss.backward()
        return loss

    def backward(self, loss, *args, **kwargs):
        """Not a second time."""


def test_gradients_that_lightning_zeroes_are_refused():
    class Split(CallsBackward):
        training_step = accumulate(steps=8, lowering="eager")(CallsBackward.training_step)

    assert difference(example.trained(example.Automatic), example.trained(CallsBackward)) > 0.1  # undecorated, too
    with pytest.raises(AccumulateError, match="AC025"):
        example.trained(Split)


def test_lightnings_accumulation_beside_ours_is_told():
    split = example.split_automatic(lowering="eager")
    with pytest.warns(AccumulateWarning, match=r"AC042.*LightningModule\.trainer\.accumulate_grad_batches is 2"):
        example.trained(split, accumulate_grad_batches=2)
