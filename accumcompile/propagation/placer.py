"""One node's placement, computed from those of its operands.

It treats all operators but ``getitem`` alike. The table says how dimensions line up and in which operands an operator
is linear; the rest, the algebra of R, S and P, is here.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.fx import Node

from ..ir.operands import Operand, data_symbols, is_size, operands, reads_sizes, shape_of, shapes_of
from ..ir.placement import Layout, Partial, Placement, R, Replicate, Shard, Size
from ..rules.rule import ANY, Alignment, Dim, Facts, Rule
from ..rules.table import is_impure, rule_of
from .cost import bytes_of
from .locality import local_and_whole, moves_behind, sources_of_sizes
from .placed import Need, Placed, Propagation

_ELEMENTWISE = {Partial("sum"), Partial("max"), Partial("min")}  # reduced elementwise, so data movement may pass them
Along = tuple[str, Size]  # a factor, and the size outside the batch within it


class Placer:
    """Places one node, given the values of its operands."""

    def __init__(self, propagation: Propagation, node: Node):
        self.propagation, self.node, self.batch = propagation, node, propagation.batch
        self.operands: list[Operand] = operands(node)
        self.values = [propagation[o.node] if o.node is not None else None for o in self.operands]
        self.shapes = tuple(shape_of(o.node) for o in self.operands)
        self.results = shapes_of(node)

    def place(self) -> Placed:
        """The node with its placement and stage."""
        if self._is_item():
            return self._item()
        if is_size(self.node) and (not self.operands or reads_sizes(self.node)):
            return self._size()
        if is_impure(self.node):
            return self._in_turn()
        rule = rule_of(self.node.target)
        if rule is None:
            return self._universal("it has no rule (accumcompile.register_rule gives it one)")
        if self._is_split() and self._unbacked():
            return self._universal("its size depends on data")
        alignment = rule.alignment(Facts(self.node, self.shapes, self.results, self.batch))
        if alignment is None:
            return self._universal("its rule does not cover these arguments")
        return self._by_rule(rule, alignment)

    # --- the cases

    def _is_item(self) -> bool:
        return self.node.target is operator.getitem

    def _item(self) -> Placed:
        """One of several results."""
        source, index = self.node.args
        value = self.propagation[source]
        layout = value.results[index] if value.has_many or index == 0 else value.results[0]
        return self._placed((layout.time,), (Need(layout),), value.stage, reason=value.reason)

    def _size(self) -> Placed:
        """A number computed from sizes: the full batch's, wherever it is used."""
        stages = [self.propagation[n].stage for n in self.node.all_input_nodes if is_size(n)]
        return self._placed((R,), self._all_whole(), max(stages, default=0), reason="a size")

    def _in_turn(self) -> Placed:
        """A run-once node: it runs whole, and after all earlier run-once nodes."""
        placed = self._universal("it draws random numbers or changes something, and runs once")
        self.propagation.drawn = max(self.propagation.drawn, placed.stage)
        return replace(placed, stage=self.propagation.drawn)

    def _universal(self, why: str) -> Placed:
        """The fallback for nodes without a rule: whole operands, whole results."""
        return self._placed((R,) * len(self.results), self._all_whole(why), reason=why)

    def _by_rule(self, rule: Rule, alignment: Alignment) -> Placed:
        split = self._choose(rule, alignment)
        if split is not None:
            return self._sharded(rule, alignment, split)
        if self._partial_passes(rule, alignment):
            return self._partial()
        new = self._new_batch_dim(alignment)
        if new is not None:
            return self._sharded(rule, alignment, new)
        needs = self._all_whole("it mixes what the micro-batches hold")
        return self._placed((R,) * len(self.results), needs, zero=self._is_zero(rule), reason=str(rule.dims))

    def _all_whole(self, why: str = "") -> tuple[Need, ...]:
        return tuple(Need(Layout(R), why) for _ in self.operands)

    def _placed(
        self, placements: tuple[Placement, ...], needs: tuple[Need, ...], stage: int | None = None, **facts: Any
    ) -> Placed:
        """The node, with what follows from its operands' placements and needs."""
        results = tuple(map(Layout, placements))
        local, whole = local_and_whole(self.propagation, self.node, zip(self.operands, needs, strict=True))
        is_whole = isinstance(placements[0], Replicate) or facts.get("whole_stage") is not None
        return Placed(
            self.node,
            results,
            tuple(self.operands),
            needs,
            self._stage(needs) if stage is None else stage,
            remade=is_whole or moves_behind(self.node, local),
            local=local,
            whole=whole,
            sizes_from=tuple(sources_of_sizes(self.node)),
            **facts,
        )

    # --- sharding

    def _choose(self, rule: Rule, alignment: Alignment) -> Along | None:
        """The factor to shard along: the one that avoids gathering the most bytes.

        What depends on no split input is sliced for free along any, and decides only where nothing else does.
        """
        saved: dict[Along, int] = {}
        for operand, value, dims in zip(self.operands, self.values, alignment.operands, strict=True):
            if value is None or not isinstance(value.placement, Shard):
                continue
            split = self._split(dims, value.placement, alignment.sizes)
            if split is not None and self._allowed(split, rule, alignment):
                cost = 0 if value.whole_stage is not None else bytes_of(operand.node)
                saved[split] = saved.get(split, 0) + cost + (not value.unsplit)
        return max(saved, key=saved.__getitem__) if saved else None

    def _split(self, dims: tuple[Dim, ...], placement: Shard, sizes: Mapping[str, Size]) -> Along | None:
        """The factor of a sharded dimension that holds the batch, and the size outside the batch within it."""
        before: Size = 1
        for factor in dims[placement.dim] if placement.dim < len(dims) else ():
            inside = self.batch.quotient(placement.outer, before)
            if inside is not None and self.batch.per_sample(sizes[factor], inside) is not None:
                return factor, inside
            before = before * sizes[factor]
        return None

    def _allowed(self, split: Along, rule: Rule, alignment: Alignment) -> bool:
        """Whether a split is valid: a result without the factor contracts it; sums need linearity in what is split."""
        if all(dims == ANY or _position(dims, split[0]) is not None for dims in alignment.results):
            return True
        if alignment.reduce != "sum":
            return alignment.reduce is not None
        return any(group and all(self._contributes(i, alignment, split) for i in group) for group in alignment.linear)

    def _contributes(self, i: int, alignment: Alignment, split: Along) -> bool:
        """Whether the parts of an operand add up to it: it is split along the factor, zero, or absent."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        if value is None:
            return False
        return value.zero or _position(alignment.operands[i], split[0]) is not None

    def _sharded(self, rule: Rule, alignment: Alignment, split: Along) -> Placed:
        needs = tuple(
            Need(
                Layout(self._along(dims, split, alignment.sizes) or _whole_or_any(dims, value)),
                f"it is split along {split[0]}",
            )
            for dims, value in zip(alignment.operands, self.values, strict=True)
        )
        placements = tuple(
            self._along(dims, split, alignment.sizes) or _contracted(dims, alignment.reduce)
            for dims in alignment.results
        )
        unsplit = all(v is None or v.unsplit or isinstance(v.placement, Replicate) for v in self.values)
        whole = self._whole_stage() if (rule.is_cheap and rule.exact) or unsplit else None
        reason = rule.dims or str(self.node.target)
        facts: dict[str, Any] = {
            "whole_stage": whole,
            "zero": self._is_zero(rule),
            "unsplit": unsplit,
            "reason": reason,
        }
        return self._placed(placements, needs, **facts)

    def _along(self, dims: tuple[Dim, ...], split: Along, sizes: Mapping[str, Size]) -> Shard | None:
        """The placement, along a factor, of an operand or result with these dimensions."""
        factor, inside = split
        dim = _position(dims, factor)
        if dim is None:
            return None
        outer = inside
        for name in dims[dim][: dims[dim].index(factor)]:
            outer = outer * sizes[name]
        return Shard(dim, outer)

    def _new_batch_dim(self, alignment: Alignment) -> Along | None:
        """A batch-sized factor that no operand has (a factory's, or a broadcast's) and that needs no larger granule."""
        used = {factor for dims in alignment.operands for dim in dims for factor in dim}
        for dim in alignment.results[0] if len(alignment.results) == 1 else ():
            for factor in dim:
                size = alignment.sizes[factor]
                if factor in used or self.batch.per_sample(size) is None:
                    continue
                if self.propagation.granule % self.batch.granule(size) == 0:
                    return factor, 1
        return None

    # --- partial values

    def _partial_passes(self, rule: Rule, alignment: Alignment) -> bool:
        """Whether the partial operands are jointly linear together, or data movement passes them through."""
        partial = {i: v.placement for i, v in enumerate(self.values) if v and isinstance(v.placement, Partial)}
        if not partial or self._new_batch_dim(alignment) is not None:
            return False
        ops = set(partial.values())
        if rule.moves and len(partial) == len(self.operands) and len(ops) == 1 and ops <= _ELEMENTWISE:
            return True
        if ops != {Partial("sum")}:
            return False
        return any(
            partial.keys() <= group and all(i in partial or self._is_absent(i) for i in group)
            for group in alignment.linear
        )

    def _is_absent(self, i: int) -> bool:
        """Whether an operand contributes nothing: it is absent or zero."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        return value is not None and value.zero

    def _partial(self) -> Placed:
        taken = [v.placement if v is not None and isinstance(v.placement, Partial) else R for v in self.values]
        op = next(placement for placement in taken if placement != R)
        return self._placed((op,) * len(self.results), tuple(Need(Layout(p)) for p in taken), reason="linear")

    # --- stages

    def _stage(self, needs: tuple[Need, ...]) -> int:
        sizes = [self.propagation[n].stage for n in self.node.all_input_nodes if is_size(n)]
        return max([0, *sizes, *(self._arrival(v, n) for v, n in zip(self.values, needs, strict=True) if v)])

    def _arrival(self, value: Placed, need: Need) -> int:
        """The stage at which an operand is available in the placement that is needed."""
        if value.placement == need.placement or isinstance(value.placement, Replicate):
            return value.stage
        return value.stage + 1 if value.whole_stage is None else value.whole_stage

    def _whole_stage(self) -> int | None:
        """The stage at which all operands are available whole without a barrier, if there is one."""
        stages = []
        for value in filter(None, self.values):
            stage = value.stage if isinstance(value.placement, Replicate) else value.whole_stage
            if stage is None:
                return None
            stages.append(stage)
        return max(stages, default=0)

    # --- facts of the node

    def _is_zero(self, rule: Rule) -> bool:
        if rule.moves:
            return bool(self.values) and all(v is not None and v.zero for v in self.values)
        return rule.fill is not None and self.node.args[rule.fill] == 0

    def _is_split(self) -> bool:
        return any(v is not None and isinstance(v.placement, Shard) for v in self.values)

    def _unbacked(self) -> bool:
        return any(data_symbols(size) for shape in (*self.shapes, *self.results) for size in shape or ())


def _whole_or_any(dims: tuple[Dim, ...], value: Placed | None) -> Placement:
    """The placement in which an unsplit operand is taken: P(any) if its value is P(any) and the rule accepts that."""
    taken = dims == ANY and value is not None and value.placement == Partial("any")
    return Partial("any") if taken else R


def _contracted(dims: tuple[Dim, ...], reduce: str | None) -> Partial:
    """The placement of a result that lacks the factor: P(any), or reduced over micro-batches."""
    if dims == ANY:
        return Partial("any")
    assert reduce is not None  # without one the factor would not have been chosen
    return Partial(reduce)


def _position(dims: tuple[Dim, ...], factor: str) -> int | None:
    """The dimension that a factor is part of."""
    return next((i for i, dim in enumerate(dims) if factor in dim), None)
