"""peft: LoRA weights of a Llama under transformers' Trainer, in micro-batches."""

from __future__ import annotations

import tempfile
from typing import Any

from language import llama, rows
from peft import LoraConfig, get_peft_model
from tagger import asked_lowering, difference, say
from transformers import Trainer, TrainingArguments

from accumcompile import accumulate

ROWS, BATCH = 22, 8  # the last batch of an epoch has 6 samples


def split_trainer(**options: Any) -> type[Trainer]:
    """A Trainer whose steps run in 4 micro-batches."""

    class SplitTrainer(Trainer):
        training_step = accumulate(steps=4, **options)(Trainer.training_step)

    return SplitTrainer


def trained(kind: type[Trainer]) -> Any:
    """Train the adapters for one epoch, 3 updates."""
    model = get_peft_model(llama(), LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"]))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=0.1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = kind(model, arguments, train_dataset=rows(ROWS))
    trainer.train()
    return trainer.model


def main(lowering: str) -> None:
    full, ours = trained(Trainer), trained(split_trainer(lowering=lowering))
    say("LoRA, 8 samples in 4 micro-batches, against the full batch", difference(full, ours))


if __name__ == "__main__":
    main(asked_lowering())
