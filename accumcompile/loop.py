"""The loop over micro-batches: the one operator that a rewritten program has and the user's graph had not.

A loop speaks scan's words. ``consts`` are the same for every micro-batch, ``xs`` are sliced, the ``carry`` is
reduced over micro-batches, each in the way and in the dtype that its ``Carry`` says, and the ``ys`` are concatenated:

    carry_0, ..., ys_0, ... = accumulate_loop(body, split, consts, xs, x_dims, carry, y_dims)

``body(rows, start, *consts, *xs)`` computes one micro-batch: ``rows`` (an int) is its number of samples,
``start`` (a 0-dim int64 tensor) the index of its first sample in the batch. It returns this micro-batch's
contribution to each carry, then its piece of each y. This module runs a loop as it stands; a lowering puts a
body with a ``run`` method of its own in the place of a plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .carry import Carry


@dataclass(frozen=True)
class Split:
    """How a batch of ``batch`` samples is cut: micro-batches of ``rows`` samples, and a smaller tail."""

    batch: int
    rows: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (start, rows) of each micro-batch, in order."""
        for start in range(0, self.batch, self.rows):
            yield start, min(self.rows, self.batch - start)

    def __len__(self) -> int:
        return -(-self.batch // self.rows)

    def at_once(self) -> Split:
        """The whole batch as one micro-batch."""
        return Split(self.batch, self.batch)

    @property
    def tail(self) -> int:
        """The number of samples in the last micro-batch where it is smaller than the others, else 0."""
        return self.batch % self.rows


def slice_rows(x: torch.Tensor, dim: int, start: int, rows: int, batch: int) -> torch.Tensor:
    """The micro-batch's part of ``x``, whose ``dim`` holds a fixed number of rows for each sample."""
    size = x.shape[dim]
    return x.narrow(dim, start * size // batch, rows * size // batch)


def accumulate_loop(
    body: Callable[..., Sequence[torch.Tensor]],
    split: Split,
    consts: Sequence[Any],
    xs: Sequence[torch.Tensor],
    x_dims: Sequence[int],
    carry: Sequence[Carry],
    y_dims: Sequence[int],
) -> list[torch.Tensor]:
    """Run ``body`` once for each micro-batch of ``split``; return the final carries, then the full ys."""
    if len(split) == 1:
        carry = [each.alone for each in carry]
    run = getattr(body, "run", None)
    if run is not None:
        return run(split, consts, xs, x_dims, carry, y_dims)
    return run_reference(body, split, consts, xs, x_dims, carry, y_dims)


def run_reference(body, split, consts, xs, x_dims, carry, y_dims) -> list[torch.Tensor]:
    """The loop's meaning, as plain as it can be written."""
    carries: list[torch.Tensor] = []
    pieces: list[list[torch.Tensor]] = [[] for _ in y_dims]
    for start, rows in split:
        local = [slice_rows(x, d, start, rows, split.batch) for x, d in zip(xs, x_dims, strict=True)]
        outs = list(body(rows, torch.tensor(start), *consts, *local))
        for kept, y in zip(pieces, outs[len(carry) :], strict=True):
            kept.append(y)
        del outs[len(carry) :], local
        accumulate(carry, carries, outs)
    finish(carry, carries)
    return carries + [torch.cat(kept, d) for kept, d in zip(pieces, y_dims, strict=True)]


def accumulate(carry: Sequence[Carry], carries: list[torch.Tensor], parts: list[Any]) -> None:
    """Put a micro-batch's parts into the carries; each is let go as soon as it is."""
    is_first = not carries
    for k, each in enumerate(carry):
        part, parts[k] = parts[k], None
        if is_first:
            carries.append(each.first(part))
        else:
            carries[k] = each.add(carries[k], part)


def finish(carry: Sequence[Carry], carries: list[torch.Tensor]) -> None:
    """Cast the carries to what they are outside of the loop, one by one: only one exists twice at a time."""
    for k, each in enumerate(carry):
        carries[k] = carries[k].to(each.result)
