"""TRL's SFTTrainer: its ``training_step`` in micro-batches."""

from __future__ import annotations

import tempfile
from typing import Any

from language import llama, texts, tokenizer
from tagger import asked_lowering, difference, say
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from accumcompile import accumulate

ROWS, BATCH = 22, 8  # the last batch of an epoch has 6 samples


def split_trainer(**options: Any) -> type[SFTTrainer]:
    """An SFTTrainer whose steps run in 4 micro-batches."""

    class SplitSFTTrainer(SFTTrainer):
        training_step = accumulate(steps=4, **options)(SFTTrainer.training_step)

    return SplitSFTTrainer


def split_with_models_loss(**options: Any) -> type[SFTTrainer]:
    """The same with the model's own loss in place of TRL's, which Dynamo does not capture."""

    class WithModelsLoss(split_trainer(**options)):
        compute_loss = Trainer.compute_loss

    return WithModelsLoss


def trained(kind: type[SFTTrainer]) -> Any:
    """Train for one epoch: 3 updates."""
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = kind(llama(), arguments, train_dataset=texts(ROWS), processing_class=tokenizer())
    trainer.train()
    return trainer.model


def main(lowering: str) -> None:
    full = trained(SFTTrainer)
    ours = trained(split_with_models_loss(lowering=lowering))
    say("SFT with the model's loss, 8 samples in 4 micro-batches", difference(full, ours))
    ours = trained(split_trainer(lowering=lowering))
    say("SFT with TRL's loss, its layers in 4 micro-batches", difference(full, ours))


if __name__ == "__main__":
    main(asked_lowering())
