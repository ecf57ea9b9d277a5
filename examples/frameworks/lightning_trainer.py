"""Lightning: ``training_step`` in micro-batches, under automatic and under manual optimization, and Fabric's loop.

Under automatic optimization Lightning calls ``backward()`` on the loss that the step returns; the step calls none.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import LightningModule, Trainer
from tagger import Tagger, asked_lowering, difference, say, sentences, stacked
from torch import Tensor
from torch.utils.data import DataLoader

from accumcompile import accumulate

ROWS, BATCH, EPOCHS = 44, 16, 2


class Automatic(LightningModule):
    """The step returns a loss, and Lightning does the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.tagger = Tagger()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.tagger(**batch)["loss"]
        self.log("loss", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Manual(Automatic):
    """The step is the whole update."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.tagger(**batch)["loss"]
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss.detach())


def split_automatic(**options: Any) -> type[Automatic]:
    """`Automatic` in 8 micro-batches."""

    class SplitAutomatic(Automatic):
        training_step = accumulate(steps=8, **options)(Automatic.training_step)

    return SplitAutomatic


def split_manual(**options: Any) -> type[Manual]:
    """`Manual` in 8 micro-batches."""

    class SplitManual(Manual):
        training_step = accumulate(steps=8, **options)(Manual.training_step)

    return SplitManual


def trained(kind: type[Automatic], batch: int = BATCH, **settings: Any) -> Tagger:
    """Train for two epochs; ``settings`` are the Trainer's."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", logger=False, **quiet, **settings)
    module = kind()
    trainer.fit(module, loader(batch))
    return module.tagger


def fabric_step(fabric: Fabric, model: Any, optimizer: Any, batch: dict[str, Tensor]) -> Tensor:
    """One update of one batch, in a loop of Fabric's."""
    optimizer.zero_grad()
    loss = model(**batch)["loss"]
    fabric.backward(loss)
    fabric.clip_gradients(model, optimizer, max_norm=1.0)
    optimizer.step()
    return loss.detach()


def split_fabric_step(**options: Any) -> Any:
    """The same in 8 micro-batches."""
    return accumulate(steps=8, **options)(fabric_step)


def trained_by_fabric(step: Any) -> Tagger:
    """The same training in a loop of Fabric's."""
    fabric = Fabric(accelerator="cpu", devices=1)
    module = Tagger()
    model, optimizer = fabric.setup(module, torch.optim.AdamW(module.parameters(), lr=0.1))
    for _ in range(EPOCHS):
        for batch in fabric.setup_dataloaders(loader(BATCH)):
            step(fabric, model, optimizer, batch)
    return module


def loader(batch: int) -> DataLoader:
    return DataLoader(sentences(ROWS), batch_size=batch, collate_fn=stacked)


def main(lowering: str) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_default_dtype(torch.float64)
    full, options = trained(Automatic, gradient_clip_val=1.0), {"lowering": lowering}
    automatic = trained(split_automatic(**options), gradient_clip_val=1.0)
    own = trained(Automatic, BATCH // 8, accumulate_grad_batches=8, gradient_clip_val=1.0)
    say("automatic, 16 samples in 8 micro-batches, against the full batch", difference(full, automatic))
    say("Lightning's own accumulation, 8 x 2, against the full batch", difference(full, own))
    manual = difference(trained(Manual), trained(split_manual(**options)))
    say("manual, 16 samples in 8 micro-batches, against the full batch", manual)
    by_fabric = difference(trained_by_fabric(fabric_step), trained_by_fabric(split_fabric_step(**options)))
    say("Fabric, 16 samples in 8 micro-batches, against the full batch", by_fabric)


if __name__ == "__main__":
    main(asked_lowering())
