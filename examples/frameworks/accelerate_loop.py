"""accelerate: the step of a training loop in micro-batches, without ``accelerator.accumulate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from tagger import Tagger, asked_lowering, difference, say, sentences, stacked
from torch import Tensor
from torch.utils.data import DataLoader

from accumcompile import accumulate

ROWS, BATCH, EPOCHS = 44, 16, 2


def train_step(accelerator: Accelerator, model: Any, optimizer: Any, batch: dict[str, Tensor]) -> Tensor:
    """One update of one batch."""
    optimizer.zero_grad()
    loss = model(**batch)["loss"]
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def split_step(**options: Any) -> Any:
    """The same update in 8 micro-batches."""
    return accumulate(steps=8, **options)(train_step)


def trained(step: Callable[..., Tensor], **settings: Any) -> Tagger:
    """Train for two epochs; ``settings`` are the accelerator's."""
    accelerator = Accelerator(cpu=True, **settings)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer, data = accelerator.prepare(model, optimizer, loader(BATCH))
    for _ in range(EPOCHS):
        for batch in data:
            step(accelerator, model, optimizer, batch)
    return accelerator.unwrap_model(model)


def trained_by_accelerate() -> Tagger:
    """The same batches, accumulated by accelerate: 8 micro-batches of 2."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=8)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer, data = accelerator.prepare(model, optimizer, loader(BATCH // 8))
    for _ in range(EPOCHS):
        for batch in data:
            with accelerator.accumulate(model):
                loss = model(**batch)["loss"]
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return accelerator.unwrap_model(model)


def loader(batch: int) -> DataLoader:
    return DataLoader(sentences(ROWS), batch_size=batch, collate_fn=stacked)


def main(lowering: str) -> None:
    torch.set_default_dtype(torch.float64)
    full = trained(train_step)
    ours = trained(split_step(lowering=lowering))
    own = trained_by_accelerate()
    say("6 updates, 16 samples in 8 micro-batches, against the full batch", difference(full, ours))
    say("accelerate's own accumulation, 8 x 2, against the full batch", difference(full, own))


if __name__ == "__main__":
    main(asked_lowering())
