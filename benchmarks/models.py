"""What is measured: a model, its loss, one batch, and the number of steps."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "examples"))  # the demo's GPT is the benchmark's GPT

from nano import GPT


@dataclass(frozen=True)
class Problem:
    """A model, `loss(model, *batch)`, and the batch."""

    model: nn.Module
    loss: Callable[..., Tensor]
    batch: tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark: how to build the problem, and into how many micro-batches it is cut."""

    title: str
    build: Callable[[], Problem]
    steps: int


def gpt_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def mse_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(model(inputs), targets)


def gpt(context: int, vocabulary: int, width: int, batch: int = 32) -> Problem:
    ids = torch.randint(vocabulary, (batch, context + 1))
    model = GPT(vocabulary, context, layers=4, width=width)
    return Problem(model, gpt_loss, (ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))


def mlp(layers: int, width: int, batch: int) -> Problem:
    blocks = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return Problem(nn.Sequential(*blocks), mse_loss, (torch.randn(batch, width), torch.randn(batch, width)))


CASES = {
    "gpt-demo": Case("GPT of the demo: d 128, T 128, V 2048, B 32, 8 steps", lambda: gpt(128, 2048, 128), 8),
    "gpt-8192": Case("GPT: d 256, T 128, V 8192, B 32, 8 steps", lambda: gpt(128, 8192, 256), 8),
    "gpt-4096": Case("GPT: d 256, T 64, V 4096, B 32, 8 steps", lambda: gpt(64, 4096, 256), 8),
    "gpt-4096-32": Case("GPT: d 256, T 64, V 4096, B 32, 32 steps", lambda: gpt(64, 4096, 256), 32),
    "mlp": Case("MLP: 25 layers, width 64, B 64, 8 steps (overhead only)", lambda: mlp(25, 64, 64), 8),
}
