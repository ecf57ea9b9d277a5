"""The loop over micro-batches, the operator that a rewritten program is built from.

It uses the vocabulary of scan. ``consts`` are the same for every micro-batch, ``xs`` are sliced, the ``carry`` is
reduced over micro-batches (each ``Carry`` gives the operator and the dtype), and the ``ys`` are concatenated:

    carry_0, ..., ys_0, ... = accumulate_loop(body, split, consts, xs, spec)

``body(rows, start, *consts, *xs)`` computes one micro-batch: ``rows`` (an int) is its number of samples,
``start`` (a 0-dim int64 tensor) the index of its first sample in the batch. It returns this micro-batch's
contribution to each carry, then its piece of each y, as the ``LoopSpec`` describes them. This module runs a loop
uncompiled; a lowering replaces a plain body by one with a ``run`` method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from ..diagnostics import errors
from .carry import Carry


@dataclass(frozen=True)
class Split:
    """How a batch of ``batch`` samples is split: micro-batches of ``rows`` samples, the last perhaps smaller.

    asked: the number of micro-batches that was asked for, of which a small batch makes fewer; 0 if none was.
    """

    batch: int
    rows: int
    asked: int = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (start, rows) of each micro-batch, in order; of an empty batch, one of no rows."""
        for start in range(0, self.batch or 1, self.rows):
            yield start, min(self.rows, self.batch - start)

    def __len__(self) -> int:
        return max(1, -(-self.batch // self.rows))

    def along(self, size: int, granule: int) -> Split:
        """At least as many micro-batches of ``size`` derived rows, of which ``granule`` stay together."""
        rows = -(-size // max(len(self), self.asked))
        return Split(size, max(1, -(-rows // granule) * granule))

    def at_once(self) -> Split:
        """The whole batch as one micro-batch."""
        return Split(self.batch, max(1, self.batch))

    def row_counts(self, granule: int) -> list[int]:
        """The numbers of rows that a micro-batch may have: the usual one, the last one's, and one granule."""
        if not self.batch:
            return [0]
        return list(dict.fromkeys([self.rows, granule, self.tail or self.rows]))

    @property
    def tail(self) -> int:
        """The number of samples in the last micro-batch if it is smaller than the others, else 0."""
        return self.batch % self.rows


def slice_rows(x: torch.Tensor, dim: int, start: int, rows: int, batch: int) -> torch.Tensor:
    """The micro-batch's slice of ``x``, whose ``dim`` holds a fixed number of rows per sample."""
    size = x.shape[dim]
    return x.narrow(dim, rows_of(start, size, batch), rows_of(rows, size, batch))


def rows_of(samples: int, size: int, batch: int) -> int:
    """How many of a batch's ``size`` rows belong to ``samples`` of it; ``BuildError`` if not a whole number."""
    rows, rest = divmod(samples * size, batch) if batch else (0, size)
    errors.check(rest == 0, f"{samples} of {batch} samples own no whole number of {size} rows")
    return rows


@dataclass(frozen=True)
class X:
    """A sliced input: the dim, the value of the captured graph that it is a slice of, and its placement."""

    dim: int
    source: str = ""
    placement: str = ""


@dataclass(frozen=True)
class Y:
    """A concatenated output: the dim, and the value of the captured graph that it yields."""

    dim: int
    source: str = ""


@dataclass(frozen=True)
class LoopSpec:
    """A loop's inputs and outputs. A source is the name of a node in the captured graph."""

    consts: tuple[str, ...]  # their sources
    xs: tuple[X, ...]
    carry: tuple[Carry, ...]
    ys: tuple[Y, ...]
    granule: int = 1  # the number of rows that stay together
    varies: bool = False  # whether data decides the number of rows, so that it differs from call to call

    @cached_property
    def alone(self) -> LoopSpec:
        """The spec of a loop over one micro-batch: nothing is accumulated."""
        return replace(self, carry=tuple(each.alone for each in self.carry))

    def merged(self, accumulators: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The accumulators (empty at first) updated with a micro-batch's contributions, then its pieces of the ys."""
        count, carries = len(self.carry), list(accumulators)
        add_parts(self.carry, carries, list(outputs[:count]))
        return carries + list(outputs[count:])


class ProgramCode(CodeGen):
    """Code generation for a graph with loops: it imports the classes that a spec consists of."""

    def additional_globals(self) -> list[tuple[str, Any]]:
        """Those classes, by name."""
        return [(each.__name__, each) for each in (LoopSpec, X, Y, Carry)]


def accumulate_loop(
    body: Callable[..., Sequence[torch.Tensor]],
    split: Split,
    consts: Sequence[Any],
    xs: Sequence[torch.Tensor],
    spec: LoopSpec,
) -> list[torch.Tensor]:
    """Run ``body`` once for each micro-batch of ``split``; return the final carries, then the full ys."""
    spec = spec.alone if len(split) == 1 else spec
    run = getattr(body, "run", None) or partial(run_reference, body)
    return run(split, consts, xs, spec)


def loops_in(program: GraphModule) -> Iterator[tuple[str, LoopSpec]]:
    """The loops of a program in order: the name of each one's body, and its spec."""
    for call in program.graph.find_nodes(op="call_function", target=accumulate_loop):
        yield str(call.args[0].target), call.args[-1]


def run_reference(
    body: Callable[..., Sequence[torch.Tensor]],
    split: Split,
    consts: Sequence[Any],
    xs: Sequence[torch.Tensor],
    spec: LoopSpec,
) -> list[torch.Tensor]:
    """The reference semantics of the loop, as simple as possible."""
    carries: list[torch.Tensor] = []
    pieces: list[list[torch.Tensor]] = [[] for _ in spec.ys]
    for start, rows in split:
        local = [slice_rows(x, each.dim, start, rows, split.batch) for x, each in zip(xs, spec.xs, strict=True)]
        outs = list(body(rows, torch.tensor(start), *consts, *local))
        for collected, piece in zip(pieces, outs[len(spec.carry) :], strict=True):
            collected.append(piece)
        del outs[len(spec.carry) :], local
        add_parts(spec.carry, carries, outs)
    finish(spec.carry, carries)
    return carries + [torch.cat(collected, each.dim) for collected, each in zip(pieces, spec.ys, strict=True)]


def add_parts(carry: Sequence[Carry], carries: list[torch.Tensor], parts: list[Any]) -> None:
    """Add a micro-batch's parts to the carries, releasing each part as soon as it is added."""
    is_first = not carries
    for k, each in enumerate(carry):
        part, parts[k] = parts[k], None
        if is_first:
            carries.append(each.first(part))
        else:
            carries[k] = each.add(carries[k], part)


def finish(carry: Sequence[Carry], carries: list[torch.Tensor]) -> None:
    """Cast the carries to their result dtypes one by one, so that only one at a time exists in both dtypes."""
    for k, each in enumerate(carry):
        carries[k] = carries[k].to(each.result)
