"""The algebra along one axis of rows: which factor of a node is split, and how partial values pass through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy

from ..ir.operands import Operand, data_symbols
from ..ir.placement import Layout, Partial, Placement, R, Shard, Size
from ..ir.sizes import Batch
from ..rules.rule import ANY, Alignment, Dim, Rule
from .cost import bytes_of
from .placed import Need, Placed

_ELEMENTWISE = {"sum", "max", "min"}  # reduced elementwise, so data movement may pass them
Along = tuple[str, Size]  # a factor, and the size outside the batch within it


@dataclass(frozen=True, eq=False)
class Axis:
    """One node along one axis: the batch, or derived rows.

    values: the node's operands as they are placed; None for one that is no tensor.
    """

    over: sympy.Symbol | None
    rows: Batch
    granule: int
    rule: Rule
    alignment: Alignment
    operands: Sequence[Operand]
    values: Sequence[Placed | None]

    # --- splitting

    def savings(self) -> dict[Along, int]:
        """The factors that the node may be split along, and the bytes that each saves from being gathered.

        What depends on no split input is sliced for free along any, and decides only where nothing else does.
        """
        saved: dict[Along, int] = {}
        for operand, value, dims in zip(self.operands, self.values, self.alignment.operands, strict=True):
            shard = self._shard(value)
            if value is None or shard is None:
                continue
            split = self._split(dims, shard)
            if split is not None and self._allowed(split):
                cost = 0 if value.whole_stage is not None else bytes_of(operand.node)
                saved[split] = saved.get(split, 0) + cost + (not value.unsplit)
        return saved

    @property
    def is_split(self) -> bool:
        """Whether an operand is split along this axis."""
        return any(self._shard(value) is not None for value in self.values)

    def _shard(self, value: Placed | None) -> Shard | None:
        """How a value is split along this axis."""
        placement = value.placement if value is not None else R
        return placement if isinstance(placement, Shard) and placement.over == self.over else None

    def is_decided_by_other_data(self, sizes: Sequence[Size]) -> bool:
        """Whether data decides one of ``sizes`` that has nothing to do with this axis."""
        return any(symbol not in self.rows.from_data for size in sizes for symbol in data_symbols(size))

    def _split(self, dims: tuple[Dim, ...], placement: Shard) -> Along | None:
        """The factor of a sharded dimension that holds the rows, and the size outside them within it."""
        sizes = self.alignment.sizes
        before: Size = 1
        for factor in dims[placement.dim] if placement.dim < len(dims) else ():
            inside = self.rows.quotient(placement.outer, before)
            if inside is not None and self.rows.per_sample(sizes[factor], inside) is not None:
                return factor, inside
            before = before * sizes[factor]
        return None

    def _allowed(self, split: Along) -> bool:
        """Whether a split is valid: a result without the factor contracts it; sums need linearity in what is split."""
        alignment = self.alignment
        if all(dims == ANY or _position(dims, split[0]) is not None for dims in alignment.results):
            return True
        if alignment.reduce != "sum":
            return alignment.reduce is not None
        return any(group and all(self._contributes(i, split) for i in group) for group in alignment.linear)

    def _contributes(self, i: int, split: Along) -> bool:
        """Whether the parts of an operand add up to it: it is split along the factor, zero, or absent."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        if value is None:
            return False
        return value.zero or _position(self.alignment.operands[i], split[0]) is not None

    def needs(self, split: Along) -> tuple[Need, ...]:
        """How the operands are needed, if the node is split."""
        return tuple(
            Need(Layout(self._along(dims, split) or self._whole_or_any(dims, value)), f"it is split along {split[0]}")
            for dims, value in zip(self.alignment.operands, self.values, strict=True)
        )

    def results(self, split: Along) -> tuple[Placement, ...]:
        """The placements of the results, if the node is split."""
        return tuple(self._along(dims, split) or self._contracted(dims) for dims in self.alignment.results)

    def _along(self, dims: tuple[Dim, ...], split: Along) -> Shard | None:
        """The placement, along a factor, of an operand or result with these dimensions."""
        factor, inside = split
        dim = _position(dims, factor)
        if dim is None:
            return None
        outer = inside
        for name in dims[dim][: dims[dim].index(factor)]:
            outer = outer * self.alignment.sizes[name]
        return Shard(dim, outer, self.over)

    def _whole_or_any(self, dims: tuple[Dim, ...], value: Placed | None) -> Placement:
        """How an unsplit operand is taken: as P(any) if its value is P(any) and the rule accepts that."""
        any_of = Partial("any", self.over)
        return any_of if dims == ANY and value is not None and value.placement == any_of else R

    def _contracted(self, dims: tuple[Dim, ...]) -> Partial:
        """The placement of a result that lacks the factor: P(any), or reduced over micro-batches."""
        if dims == ANY:
            return Partial("any", self.over)
        assert self.alignment.reduce is not None  # without one the factor would not have been chosen
        return Partial(self.alignment.reduce, self.over)

    def new_dim(self) -> Along | None:
        """A factor of new rows that no operand has (a factory's, or a broadcast's), if it needs no larger granule."""
        sizes = self.alignment.sizes
        used = {factor for dims in self.alignment.operands for dim in dims for factor in dim}
        for factor in self._factors_of_the_result():
            if factor in used or self.rows.per_sample(sizes[factor]) is None:
                continue
            if self.granule % self.rows.granule(sizes[factor]) == 0:
                return factor, 1
        return None

    def _factors_of_the_result(self) -> Iterator[str]:
        results = self.alignment.results
        for dim in results[0] if len(results) == 1 else ():
            yield from dim

    # --- partial values

    def passing(self) -> Partial | None:
        """The placement of partial operands that pass through: linear together, or moved as they are; None if not."""
        partial = {i: v.placement for i, v in enumerate(self.values) if v and isinstance(v.placement, Partial)}
        placements = set(partial.values())
        if len(placements) != 1 or self.new_dim() is not None:
            return None
        placement = placements.pop()
        if placement.over != self.over:
            return None
        if self.rule.moves and len(partial) == len(self.operands) and placement.op in _ELEMENTWISE:
            return placement
        return placement if placement.op == "sum" and self._is_linear_in(partial) else None

    def _is_linear_in(self, partial: Mapping[int, Partial]) -> bool:
        return any(
            partial.keys() <= group and all(i in partial or self._is_absent(i) for i in group)
            for group in self.alignment.linear
        )

    def _is_absent(self, i: int) -> bool:
        """Whether an operand contributes nothing: it is absent or zero."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        return value is not None and value.zero


def _position(dims: tuple[Dim, ...], factor: str) -> int | None:
    """The dimension that a factor is part of."""
    return next((i for i, dim in enumerate(dims) if factor in dim), None)
