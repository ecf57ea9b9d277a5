"""Which inputs of a call were split, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Larger:
    """An input larger than those that are split, with another size; ``batch_dims`` would choose it."""

    name: str
    dim: int
    size: int
    bytes: int
    batch_dims: str


@dataclass(frozen=True)
class Choice:
    """The inputs that the last call of a step was split along.

    inputs: the name and the dim of each.
    size: the batch size.
    why: the reason, in words.
    row: the ``batch_dims`` that say the same of inputs of one row; empty if there are none.
    beside: the name, the dim and the size of each input that is a batch of its own.
    """

    inputs: Sequence[tuple[str, int]] = ()
    size: int = 0
    why: str = ""
    row: str = ""
    larger: Larger | None = None
    beside: Sequence[tuple[str, int, int]] = ()
