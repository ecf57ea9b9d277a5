"""What these examples share: a tagger, sentences of uneven length, and a line of a comparison.

The loss is a mean over real tokens, as a language model's is: the mean of micro-batches' means is not the batch's.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS, TAGS, LENGTH, IGNORED = 32, 5, 8, -100


class Tagger(nn.Module):
    """A tag for every token. Its forward takes the labels and returns the loss, and takes no other ``**kwargs``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, 16)
        self.hidden = nn.Linear(16, 16)
        self.tags = nn.Linear(16, TAGS)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        tags = self.tags(torch.tanh(self.hidden(self.embedding(input_ids))))
        return {"loss": F.cross_entropy(tags.flatten(0, 1), labels.flatten(), ignore_index=IGNORED), "tags": tags}


def sentences(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Sentences of one to eight random tokens; the label of what is behind a sentence's end is ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(TOKENS, (count, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
    labels = (ids % TAGS).masked_fill(torch.arange(LENGTH) >= lengths, IGNORED)
    return [{"input_ids": row, "labels": tags} for row, tags in zip(ids, labels, strict=True)]


def stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of some sentences."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def difference(expected: nn.Module, actual: nn.Module) -> float:
    """The largest difference between two models' parameters and buffers."""
    values = actual.state_dict()
    return max((value - values[name]).abs().max().item() for name, value in expected.state_dict().items())


def say(what: str, value: Any) -> None:
    """A line of a comparison."""
    print(f"{what:<72}{value:.1e}" if isinstance(value, float) else f"{what:<72}{value}")


def asked_lowering() -> str:
    """The lowering named on the command line: the default one compiles, ``eager`` starts faster."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lowering", default="inductor", choices=("inductor", "eager"))
    return parser.parse_args().lowering
