"""peft and TRL: a Llama with random weights, whose norms and loss are computed in float32."""

import peft_lora
import pytest
import trl_dpo
import trl_sft
from splits import recorded
from tagger import difference
from transformers import Trainer
from trl import DPOTrainer, SFTTrainer

from accumcompile import AccumulateWarning

FLOAT32 = 1e-6
EPOCH = [(8, 4), (8, 4), (6, 3)]


def test_lora():
    split = peft_lora.split_trainer(lowering="eager", strict=True)
    ours, runs = recorded(split.training_step, lambda: peft_lora.trained(split))
    assert runs == [("fused", *sizes) for sizes in EPOCH]
    full = peft_lora.trained(Trainer)
    assert difference(full, ours) < FLOAT32
    trained = [p for p in ours.parameters() if p.requires_grad]
    assert len(trained) == 4
    assert all(p.abs().max() > 0.01 for p in trained)


def test_sft_with_the_models_own_loss():
    split = trl_sft.split_with_models_loss(lowering="eager", strict=True)
    ours, runs = recorded(split.training_step, lambda: trl_sft.trained(split))
    assert runs == [("fused", *sizes) for sizes in EPOCH]
    assert difference(trl_sft.trained(SFTTrainer), ours) < FLOAT32


# DPO's batch is the chosen answers and then the rejected ones: 8 pairs are 16 rows, and 6 are 12. The graph that
# compares them keeps pairs together, in micro-batches of 4.
@pytest.mark.parametrize(
    ("example", "kind", "sizes"),
    [(trl_sft, SFTTrainer, {(8, 4), (6, 3)}), (trl_dpo, DPOTrainer, {(16, 4), (12, 4), (12, 3)})],
    ids=["sft", "dpo"],
)
def test_trls_own_loss_runs_whole_and_is_told(example, kind, sizes):
    """TRL computes it in an autograd.Function that Dynamo does not capture; the layers are split all the same."""
    split = example.split_trainer(lowering="eager")
    with pytest.warns(AccumulateWarning, match="AC021.*lm_head"):
        ours, runs = recorded(split.training_step, lambda: example.trained(split))
    assert difference(example.trained(kind), ours) < FLOAT32
    assert {run[1:] for run in runs if run[0] in ("forward", "backward")} <= sizes
    assert {run[1:] for run in runs} == sizes
