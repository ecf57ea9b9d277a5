"""transformers' Trainer: its ``training_step`` in micro-batches, its own accumulation left at 1."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from tagger import Tagger, asked_lowering, difference, say, sentences
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from accumcompile import accumulate

ROWS, BATCH = 44, 16  # the last batch of an epoch has 12 samples


def split_trainer(**options: Any) -> type[Trainer]:
    """A Trainer whose steps run in 8 micro-batches."""

    class SplitTrainer(Trainer):
        training_step = accumulate(steps=8, **options)(Trainer.training_step)

    return SplitTrainer


def trained(kind: type[Trainer], folder: str, batch: int = BATCH, accumulation: int = 1, updates: int = 6) -> Trainer:
    """Train for two epochs, with evaluation, logging and checkpoints; go on from a checkpoint if there is one."""
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=updates,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = kind(Tagger(), arguments, train_dataset=sentences(ROWS), eval_dataset=sentences(10, seed=1))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
    return trainer


def main(lowering: str) -> None:
    torch.set_default_dtype(torch.float64)
    split = split_trainer(lowering=lowering)
    with tempfile.TemporaryDirectory() as folder:
        full = trained(Trainer, folder + "/full")
        ours = trained(split, folder + "/ours")
        own = trained(Trainer, folder + "/own", batch=BATCH // 8, accumulation=8)
        trained(split, folder + "/resumed", updates=3)
        resumed = trained(split, folder + "/resumed")
    say("6 updates, 16 samples in 8 micro-batches, against the full batch", difference(full.model, ours.model))
    say("the same, stopped after 3 updates and resumed", difference(full.model, resumed.model))
    say("Trainer's own accumulation, 8 x 2, against the full batch", difference(full.model, own.model))


if __name__ == "__main__":
    main(asked_lowering())
