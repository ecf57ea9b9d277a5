"""TRL's DPOTrainer: its ``training_step`` in micro-batches. The reference model runs in them too."""

from __future__ import annotations

import tempfile
from typing import Any

from language import llama, preferences, tokenizer
from tagger import asked_lowering, difference, say
from trl import DPOConfig, DPOTrainer

from accumcompile import accumulate

ROWS, BATCH = 22, 8  # the last batch of an epoch has 6 samples


def split_trainer(**options: Any) -> type[DPOTrainer]:
    """A DPOTrainer whose steps run in 4 micro-batches."""

    class SplitDPOTrainer(DPOTrainer):
        training_step = accumulate(steps=4, **options)(DPOTrainer.training_step)

    return SplitDPOTrainer


def trained(kind: type[DPOTrainer]) -> Any:
    """Train for one epoch: 3 updates."""
    arguments = DPOConfig(
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
    trainer = kind(llama(), llama(), arguments, train_dataset=preferences(ROWS), processing_class=tokenizer())
    trainer.train()
    return trainer.model


def main(lowering: str) -> None:
    full, ours = trained(DPOTrainer), trained(split_trainer(lowering=lowering))
    say("DPO, 8 pairs in 4 micro-batches, against the full batch", difference(full, ours))


if __name__ == "__main__":
    main(asked_lowering())
