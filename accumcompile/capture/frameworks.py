"""What a training framework does beside the step: it may accumulate too, and it may zero gradients afterwards.

No framework is imported here: an object of one exists only where its module is in ``sys.modules``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A number that an object of a framework holds: how many batches it accumulates."""

    module: str
    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.path}"


# The first that is found counts: Trainer holds an Accelerator, which accumulates nothing by itself.
SETTINGS = (
    Setting("transformers.trainer", "Trainer", "args.gradient_accumulation_steps"),
    Setting("transformers.training_args", "TrainingArguments", "gradient_accumulation_steps"),
    Setting("lightning.pytorch", "LightningModule", "trainer.accumulate_grad_batches"),
    Setting("lightning.pytorch", "Trainer", "accumulate_grad_batches"),
    Setting("pytorch_lightning", "LightningModule", "trainer.accumulate_grad_batches"),
    Setting("pytorch_lightning", "Trainer", "accumulate_grad_batches"),
    Setting("accelerate", "Accelerator", "gradient_accumulation_steps"),
)


def accumulating(values: Iterable[Any]) -> tuple[Setting, int] | None:
    """The setting by which a framework accumulates over more than one batch, and over how many."""
    found = list(values)
    for setting in SETTINGS:
        for value in _of_kind(setting.module, setting.kind, found):
            count = _read(value, setting.path)
            if isinstance(count, int) and count > 1:
                return setting, count
    return None


def zeroes_afterwards(values: Iterable[Any]) -> bool:
    """Whether Lightning optimizes by itself: it zeroes gradients when the step has returned, and then calls backward().

    ``training_step`` comes first in its closure, ``zero_grad`` second.
    """
    found = list(values)
    return any(
        _read(module, "automatic_optimization") is True and _read(module, "trainer.training") is True
        for package in ("lightning.pytorch", "pytorch_lightning")
        for module in _of_kind(package, "LightningModule", found)
    )


def _of_kind(module: str, name: str, values: Iterable[Any]) -> Iterator[Any]:
    kind = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return (value for value in values if isinstance(kind, type) and isinstance(value, kind))


def _read(value: Any, path: str) -> Any:
    """An attribute of an attribute; None where there is none: a module without a trainer raises."""
    try:
        for name in path.split("."):
            value = getattr(value, name)
    except Exception:
        return None
    return value
