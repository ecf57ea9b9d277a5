"""Slices and slice scatters: which rows of a dimension a part consists of, and how a micro-batch takes them.

A part is regular if it is the whole dimension, some of several equal blocks (``cat([x, y])[n:]``,
``cat([x, y, z])[: 2 * n]``), or every n-th row (``x[1::2]``): the dimension is then (blocks rows) or (rows every), the
part (count rows), and both may be split along the rows.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
from torch.fx import Node

from ..ir.placement import Size
from ..ir.sizes import Batch, expression
from .rule import Dim, Dims, Facts, align_dims


@dataclass(frozen=True)
class Part:
    """A regular part of ``dim``: ``count`` of ``blocks``, from ``first`` on, or every ``step``-th row from there."""

    dim: int
    first: Size = 0
    count: Size = 1
    blocks: Size = 1
    step: int = 1

    @property
    def everything(self) -> bool:
        return self.blocks == 1 and self.step == 1

    def factors(self, whole: bool) -> Dim:
        """The dimension that the part is taken from, or the part's, as factors."""
        outside = ("blocks",) * (self.blocks != 1) if whole else ("count",) * (self.count != 1)
        return (*outside, "rows", *("every",) * (whole and self.step != 1))

    def rows_in(self, body, node: Node, count: Size) -> object:
        """The rows of each of the ``count`` blocks of a tensor, in a micro-batch."""
        rows = body.size(body.shape(node)[self.dim])
        return rows if count == 1 else body.number(operator.floordiv, rows, body.size(count))

    def bounds(self, body, rows: object) -> tuple:
        """Start, end and step of the part in a micro-batch's tensor, which has ``rows`` rows in each block."""
        if self.blocks == 1:
            return self.first, sys.maxsize, self.step
        first, count = body.size(self.first), body.size(self.count)
        ends = (first, body.number(operator.add, first, count))
        return *(body.number(operator.mul, end, rows) for end in ends), 1


def slice_(facts: Facts) -> Dims | None:
    """A slice leaves the other dimensions alone; a regular part may be split along its own."""
    return _aligned(facts, 1, facts.results[0], operands=(True,), results=(False,))


def slice_scatter(facts: Facts) -> Dims | None:
    """A slice is replaced: the other dimensions line up, and the sliced one does if the part is regular."""
    return _aligned(facts, 2, facts.shapes[1], operands=(True, False), results=(True,))


def _aligned(
    facts: Facts, position: int, shape: Sequence[Size], operands: Sequence[bool], results: Sequence[bool]
) -> Dims | None:
    """``operands`` and ``results`` say which of them hold the whole dimension; ``shape`` is the part's."""
    dim, part = _dim(facts, position), part_of(facts, position, shape)
    names = [f"d{i}" for i in range(len(shape))]
    if part is None or not part.everything:
        names[dim] = "_"
    aligned = align_dims(facts, [names] * len(operands), [names] * len(results))
    if aligned is None or part is None or part.everything:
        return aligned

    def lined_up(side: Sequence[tuple[Dim, ...]], holds: Sequence[bool]) -> tuple[tuple[Dim, ...], ...]:
        return tuple((*d[:dim], part.factors(whole), *d[dim + 1 :]) for d, whole in zip(side, holds, strict=True))

    rows = facts.batch.quotient(shape[dim], part.count)
    assert rows is not None  # by part_of
    sizes = aligned.sizes | {"rows": rows, "count": part.count, "blocks": part.blocks, "every": part.step}
    return Dims(lined_up(aligned.operands, operands), lined_up(aligned.results, results), sizes)


def part_of(facts: Facts, position: int, shape: Sequence[Size]) -> Part | None:
    """The part that the arguments from ``position`` on (dim, start, end, step) select; None if irregular."""
    batch, dim = facts.batch, _dim(facts, position)
    size, rows = facts.shapes[0][dim], shape[dim]
    start = _from_the_front(value_of(facts.argument(position + 1, "start")) or 0, size)
    step = facts.argument(position + 3, "step", 1)
    if start == 0 and batch.equal(rows, size):
        return Part(dim)
    if not isinstance(step, int) or not batch.in_size(rows):
        return None
    if step > 1:
        regular = start in range(step) and batch.equal(rows * step, size)
        return Part(dim, start, step=step) if regular else None
    blocks, first = batch.quotient(size, rows), batch.quotient(start, rows)
    if blocks is not None and first is not None:
        return Part(dim, first, blocks=blocks)
    return _of_equal_blocks(dim, size, start, rows, batch)


def _of_equal_blocks(dim: int, size: Size, start: Size, rows: Size, batch: Batch) -> Part | None:
    """Several of the fewest equal blocks that begin and end where the part does; None if there are none."""
    before, share = batch.ratio(start, size), batch.ratio(rows, size)
    if before is None or share is None:
        return None
    blocks = math.lcm(before.denominator, share.denominator)
    equal = batch.quotient(size, blocks) is not None
    return Part(dim, int(before * blocks), int(share * blocks), blocks) if equal else None


def _dim(facts: Facts, position: int) -> int:
    return facts.argument(position, "dim", 0) % len(facts.shapes[0])


def value_of(argument: object) -> Size | None:
    """The value of a size argument: a number, or a node that holds one."""
    if argument is None:
        return None
    return expression(argument.meta["val"]) if isinstance(argument, Node) else expression(argument)


def _from_the_front(start: Size, size: Size) -> Size:
    """A negative start counts from the end."""
    return start + size if sympy.sympify(start).is_negative else start


def local_slice(body, node: Node, args: tuple, kwargs: dict) -> Node:
    """A slice of the whole dimension is replaced by its operand; a regular part of a split one becomes local."""
    facts = body.facts(node)
    part = part_of(facts, 1, facts.results[0])
    if part is not None and part.everything:
        return args[0]
    if part is None or getattr(body.placement(node), "dim", None) != part.dim:
        return body.call(node.target, args, kwargs)
    return body.call(node.target, (args[0], part.dim, *part.bounds(body, part.rows_in(body, node, part.count))))


def local_slice_scatter(body, node: Node, args: tuple, kwargs: dict) -> Node:
    """If the dimension is split, only the micro-batch's rows are replaced."""
    facts = body.facts(node)
    part = part_of(facts, 2, facts.shapes[1])
    if part is None or getattr(body.placement(node), "dim", None) != part.dim:
        return body.call(node.target, args, kwargs)
    return body.call(node.target, (*args[:2], part.dim, *part.bounds(body, part.rows_in(body, node, part.blocks))))
