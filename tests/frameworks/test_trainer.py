"""transformers' Trainer, decorated: parameters, logs, evaluation and resuming are those of the full batch."""

import pytest
import torch
import trainer as example
from splits import recorded
from tagger import difference
from transformers import Trainer

from accumcompile import AccumulateError, AccumulateWarning

# 44 rows are batches of 16, 16 and 12: in 8, 8 and 6 micro-batches of 2.
EPOCH = [("fused", 16, 8), ("fused", 16, 8), ("fused", 12, 6)]
LOGGED = ("loss", "grad_norm", "learning_rate", "epoch", "eval_loss")


def logs(trainer):
    return [{name: entry[name] for name in LOGGED if name in entry} for entry in trainer.state.log_history[:-1]]


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)


def test_a_decorated_trainer(tmp_path):
    split = example.split_trainer(lowering="eager", strict=True)
    full = example.trained(Trainer, str(tmp_path / "full"))
    ours, runs = recorded(split.training_step, lambda: example.trained(split, str(tmp_path / "ours")))
    assert runs == 2 * EPOCH
    assert difference(full.model, ours.model) < 1e-13
    assert len(logs(full)) == 9  # six updates, three evaluations
    for a, b in zip(logs(full), logs(ours), strict=True):
        assert a == pytest.approx(b, rel=1e-12)

    example.trained(split, str(tmp_path / "resumed"), updates=3)
    resumed, runs = recorded(split.training_step, lambda: example.trained(split, str(tmp_path / "resumed")))
    assert runs == EPOCH
    assert difference(full.model, resumed.model) < 1e-13


def test_the_trainers_own_accumulation_is_another_result(tmp_path):
    """For a model without ``**kwargs`` it averages the micro-batches' means."""
    full = example.trained(Trainer, str(tmp_path / "full"))
    own = example.trained(Trainer, str(tmp_path / "own"), batch=2, accumulation=8)
    assert difference(full.model, own.model) > 0.1


def test_the_trainers_accumulation_beside_ours_is_told(tmp_path):
    told = r"AC042.*Trainer\.args\.gradient_accumulation_steps is 2"
    with pytest.warns(AccumulateWarning, match=told):
        example.trained(example.split_trainer(lowering="eager"), str(tmp_path / "a"), accumulation=2, updates=1)
    with pytest.raises(AccumulateError, match=told):
        example.trained(example.split_trainer(lowering="eager", strict=True), str(tmp_path / "b"), accumulation=2)
