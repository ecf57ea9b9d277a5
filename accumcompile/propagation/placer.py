"""One node's placement, computed from those of its operands.

It treats all operators but ``getitem`` alike. The table says how dimensions line up and in which operands an operator
is linear; the rest, the algebra of R, S and P, is here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import sympy
from torch.fx import Node

from ..ir.operands import Operand, is_size, operands, reads_sizes, shape_of, shapes_of
from ..ir.placement import Layout, Partial, Placement, R, Replicate, Size
from ..rules.rule import Facts, Rule
from ..rules.table import is_impure, rule_of
from .axis import Along, Axis
from .locality import local_and_whole, moves_behind, sources_of_sizes
from .placed import Need, Placed, Propagation


class Placer:
    """Places one node, given the values of its operands."""

    def __init__(self, propagation: Propagation, node: Node):
        self.propagation, self.node = propagation, node
        self.operands: list[Operand] = operands(node)
        self.values = [propagation[o.node] if o.node is not None else None for o in self.operands]
        self.shapes = tuple(shape_of(o.node) for o in self.operands)
        self.results = shapes_of(node)

    def place(self) -> Placed:
        """The node with its placement and stage."""
        if is_size(self.node) and (not self.operands or reads_sizes(self.node)):
            return self._size()
        return self._seeded(self._plain())

    def _plain(self) -> Placed:
        if self._is_item():
            return self._item()
        return self._in_turn() if is_impure(self.node) else self._by_rule()

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
        sources = [n for n in self.node.all_input_nodes if is_size(n)]
        if reads_sizes(self.node):  # not the tensor itself is needed, but the first of that size
            makers = self.propagation.makers_of(self.node.meta["val"])
            self.operands, sources = [], makers if self._are_placed(makers) else self.node.all_input_nodes
        stages = [self.propagation[n].stage for n in sources]
        return self._placed((R,), self._all_whole(), max(stages, default=0), reason="a size")

    def _are_placed(self, nodes: list[Node]) -> bool:
        return all(node in self.propagation for node in nodes)

    def _in_turn(self) -> Placed:
        """A run-once node: it runs whole, and after all earlier run-once nodes."""
        placed = self._universal("it draws random numbers or changes something, and runs once")
        self.propagation.drawn = max(self.propagation.drawn, placed.stage)
        return replace(placed, stage=self.propagation.drawn)

    def _universal(self, why: str) -> Placed:
        """The fallback for nodes without a rule: whole operands, whole results."""
        return self._placed((R,) * len(self.results), self._all_whole(why), reason=why)

    def _by_rule(self) -> Placed:
        """Split along the axis that saves most; else partial sums pass; else a new dimension is split; else whole."""
        rule = rule_of(self.node.target)
        if rule is None:
            return self._universal("it has no rule (accumcompile.register_rule gives it one)")
        axes = list(self._axes(rule))
        if not axes:
            return self._universal("its rule does not cover these arguments")
        axes = [axis for axis in axes if not (axis.is_split and axis.is_decided_by_other_data(self._all_sizes))]
        if not axes:
            return self._universal("its size depends on data")
        saved = {(axis, along): most for axis in axes for along, most in axis.savings().items()}
        if saved:
            return self._sharded(*self._best(saved))
        for axis in axes:
            if passing := axis.passing():
                return self._partial(passing)
        for axis in axes:
            if new := axis.new_dim():
                return self._sharded(axis, new)
        needs = self._all_whole("it mixes what the micro-batches hold")
        return self._placed((R,) * len(self.results), needs, zero=self._is_zero(rule), reason=str(rule.dims))

    def _best(self, saved: dict[tuple[Axis, Along], int]) -> tuple[Axis, Along]:
        """The split that saves most, along a preferred axis if there is one."""
        met = {axis.over for axis, _ in saved}
        if len(met) > 1:
            self.propagation.rivals |= met
        return max(saved, key=lambda split: (split[0].over in self.propagation.preferred, saved[split]))

    def _axes(self, rule: Rule) -> Iterator[Axis]:
        """The batch, and the derived rows that the node has, if its rule covers the arguments."""
        known = self.propagation
        for over in (None, *(s for s in known.derived if self._has(s))):
            rows = known.rows_of(over)
            alignment = rule.alignment(Facts(self.node, self.shapes, self.results, rows))
            if alignment is not None:
                yield Axis(over, rows, known.granule(over), rule, alignment, self.operands, self.values)

    def _has(self, over: sympy.Symbol) -> bool:
        rows = self.propagation.derived[over]
        return any(rows.in_size(size) for size in self._all_sizes)

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
            sizes_from=tuple(sources_of_sizes(self.propagation, self.node)),
            **facts,
        )

    # --- sharding

    def _sharded(self, axis: Axis, split: Along) -> Placed:
        rule = axis.rule
        whole_operands = any(v is not None and isinstance(v.placement, Replicate) for v in self.values)
        unsplit = all(v is None or v.unsplit or isinstance(v.placement, Replicate) for v in self.values)
        unsplit &= rule.is_cheap or rule.factory or not whole_operands  # not what a model makes of indices or of noise
        whole = self._whole_stage() if (rule.is_cheap and rule.exact) or unsplit else None
        facts: dict[str, Any] = {
            "whole_stage": whole,
            "zero": self._is_zero(rule),
            "unsplit": unsplit,
            "reason": rule.dims or str(self.node.target),
        }
        return self._placed(axis.results(split), axis.needs(split), **facts)

    def _partial(self, passing: Partial) -> Placed:
        taken = [v.placement if v is not None and isinstance(v.placement, Partial) else R for v in self.values]
        return self._placed((passing,) * len(self.results), tuple(Need(Layout(p)) for p in taken), reason="linear")

    def _seeded(self, placed: Placed) -> Placed:
        """A value that is computed whole and is worth splitting again, as an input of loops over its rows."""
        if self.node not in self.propagation.seeds or placed.is_local:
            return placed
        shard = self.propagation.shard_of(self.results[0])
        return (
            placed
            if shard is None
            else replace(placed, results=(Layout(shard),), whole_stage=placed.stage, remade=True, seed=True)
        )

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

    @cached_property
    def _all_sizes(self) -> list[Size]:
        return [size for shape in (*self.shapes, *self.results) for size in shape or ()]
