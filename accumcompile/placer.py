"""One node's placement, from those of its operands.

Written once: it never asks which operator a node is. The table says how dimensions line up and where an operator is
linear; the rest is here, and is the algebra of R, S and P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch.fx import Node

from .operands import Operand, data_symbols, elements, is_size, operands, reads_sizes, shape_of, shapes_of
from .placement import Partial, Placement, R, Replicate, Shard, Size
from .propagation import Need, Propagation, Value
from .rules.rule import ANY, Alignment, Dim, Facts, Rule
from .rules.table import is_impure, rule_of

_ELEMENTWISE = {Partial("sum"), Partial("max"), Partial("min")}  # reduced element by element: may be moved about
Split = tuple[str, Size]  # a factor, and what of it lies outside of the batch


class Placer:
    """Places one node, given the values of its operands."""

    def __init__(self, known: Propagation, node: Node):
        self.known, self.node, self.batch = known, node, known.batch
        self.operands: list[Operand] = operands(node)
        self.values = [known.values[o.node] if o.node is not None else None for o in self.operands]
        self.shapes = tuple(shape_of(o.node) for o in self.operands)
        self.results = shapes_of(node)

    def place(self) -> tuple[Value, tuple[Need, ...]]:
        """What is known of the node, and the placement in which it takes each operand."""
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
        return self.node.op == "call_function" and getattr(self.node.target, "__name__", "") == "getitem"

    def _item(self) -> tuple[Value, tuple[Need, ...]]:
        """One of several results."""
        source, index = self.node.args
        value = self.known.values[source]
        placement = value.placements[index] if len(value.placements) > 1 or index == 0 else value.placements[0]
        return Value((placement,), value.stage, reason=value.reason), (Need(placement),)

    def _size(self) -> tuple[Value, tuple[Need, ...]]:
        """A number computed from sizes: the full batch's, wherever it is used."""
        stages = [self.known.values[n].stage for n in self.node.all_input_nodes if is_size(n)]
        return Value((R,), max(stages, default=0), reason="a size"), tuple(Need(R) for _ in self.operands)

    def _in_turn(self) -> tuple[Value, tuple[Need, ...]]:
        """What runs only once, whole, and after all of its kind that stand before it."""
        value, needs = self._universal("it draws random numbers or changes something, and runs once")
        self.known.drawn = max(self.known.drawn, value.stage)
        return replace(value, stage=self.known.drawn), needs

    def _universal(self, why: str) -> tuple[Value, tuple[Need, ...]]:
        """The rule of what has no rule: operands whole, results whole."""
        needs = tuple(Need(R, why) for _ in self.operands)
        return Value((R,) * len(self.results), self._stage(needs), reason=why), needs

    def _by_rule(self, rule: Rule, alignment: Alignment) -> tuple[Value, tuple[Need, ...]]:
        split = self._choose(rule, alignment)
        if split is not None:
            return self._sharded(rule, alignment, split)
        if self._partial_passes(rule, alignment):
            return self._partial()
        made = self._new_batch_dim(alignment)
        if made is not None:
            return self._sharded(rule, alignment, made)
        needs = tuple(Need(R, "it mixes what the micro-batches hold") for _ in self.operands)
        value = Value((R,) * len(self.results), self._stage(needs), zero=self._is_zero(rule), reason=str(rule.dims))
        return value, needs

    # --- sharding

    def _choose(self, rule: Rule, alignment: Alignment) -> Split | None:
        """The factor to shard along: the one that spares the most bytes from being gathered."""
        saved: dict[Split, int] = {}
        for operand, value, dims in zip(self.operands, self.values, alignment.operands, strict=True):
            if value is None or not isinstance(value.placement, Shard):
                continue
            split = self._split(dims, value.placement, alignment.sizes)
            if split is not None and self._allowed(split, rule, alignment):
                cost = 0 if value.whole_stage is not None else elements(operand.node)
                saved[split] = saved.get(split, 0) + cost + 1
        return max(saved, key=saved.__getitem__) if saved else None

    def _split(self, dims: tuple[Dim, ...], placement: Shard, sizes: Mapping[str, Size]) -> Split | None:
        """The factor of a sharded dimension that holds the batch, and what lies outside of it."""
        before: Size = 1
        for factor in dims[placement.dim] if placement.dim < len(dims) else ():
            inside = self.batch.quotient(placement.outer, before)
            if inside is not None and self.batch.per_sample(sizes[factor], inside) is not None:
                return factor, inside
            before = before * sizes[factor]
        return None

    def _allowed(self, split: Split, rule: Rule, alignment: Alignment) -> bool:
        """A result that lacks the factor contracts it: sums need linearity in everything that is split."""
        if all(dims == ANY or _position(dims, split[0]) is not None for dims in alignment.results):
            return True
        if alignment.reduce != "sum":
            return alignment.reduce is not None
        return any(group and all(self._contributes(i, alignment, split) for i in group) for group in alignment.linear)

    def _contributes(self, i: int, alignment: Alignment, split: Split) -> bool:
        """Whether an operand falls into parts that add up: along the factor, or because it is zero."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        if value is None:
            return False
        return value.zero or _position(alignment.operands[i], split[0]) is not None

    def _sharded(self, rule: Rule, alignment: Alignment, split: Split) -> tuple[Value, tuple[Need, ...]]:
        needs = tuple(
            Need(
                self._along(dims, split, alignment.sizes) or _whole_or_any(dims, value), f"it is split along {split[0]}"
            )
            for dims, value in zip(alignment.operands, self.values, strict=True)
        )
        placements = tuple(
            self._along(dims, split, alignment.sizes) or _contracted(dims, alignment.reduce)
            for dims in alignment.results
        )
        stage = self._stage(needs)
        made = all(v is None or v.made or isinstance(v.placement, Replicate) for v in self.values)
        whole = self._whole_stage() if (rule.is_cheap and rule.exact) or made else None
        reason = rule.dims or str(self.node.target)
        return Value(placements, stage, whole, self._is_zero(rule), reason, made), needs

    def _along(self, dims: tuple[Dim, ...], split: Split, sizes: Mapping[str, Size]) -> Shard | None:
        """The placement, along a factor, of an operand or result with these dimensions."""
        factor, inside = split
        dim = _position(dims, factor)
        if dim is None:
            return None
        outer = inside
        for name in dims[dim][: dims[dim].index(factor)]:
            outer = outer * sizes[name]
        return Shard(dim, outer)

    def _new_batch_dim(self, alignment: Alignment) -> Split | None:
        """A factor of batch size that no operand has: a factory's, or a broadcast's. No more samples must stay
        together for it than do already."""
        used = {factor for dims in alignment.operands for dim in dims for factor in dim}
        for dim in alignment.results[0] if len(alignment.results) == 1 else ():
            for factor in dim:
                size = alignment.sizes[factor]
                if factor in used or self.batch.per_sample(size) is None:
                    continue
                if self.known.granule % self.batch.granule(size) == 0:
                    return factor, 1
        return None

    # --- partial values

    def _partial_passes(self, rule: Rule, alignment: Alignment) -> bool:
        """Whether the partial operands are all of those in which the operator is jointly linear."""
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
        """Whether an operand adds nothing: it is not there, or zero."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        value = self.values[i]
        return value is not None and value.zero

    def _partial(self) -> tuple[Value, tuple[Need, ...]]:
        needs = tuple(Need(v.placement if v and isinstance(v.placement, Partial) else R) for v in self.values)
        op = next(v.placement for v in self.values if v is not None and isinstance(v.placement, Partial))
        return Value((op,) * len(self.results), self._stage(needs), reason="linear"), needs

    # --- stages

    def _stage(self, needs: tuple[Need, ...]) -> int:
        sizes = [self.known.values[n].stage for n in self.node.all_input_nodes if is_size(n)]
        return max([0, *sizes, *(self._arrival(v, n) for v, n in zip(self.values, needs, strict=True) if v)])

    def _arrival(self, value: Value, need: Need) -> int:
        """The stage at which an operand can be had in the placement that is needed."""
        if value.placement == need.placement or isinstance(value.placement, Replicate):
            return value.stage
        return value.stage + 1 if value.whole_stage is None else value.whole_stage

    def _whole_stage(self) -> int | None:
        """The stage at which all operands can be had whole for free."""
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


def _whole_or_any(dims: tuple[Dim, ...], value: Value | None) -> Placement:
    """How an operand is taken that is not split: any micro-batch's, where that is all there is and will do."""
    taken = dims == ANY and value is not None and value.placement == Partial("any")
    return Partial("any") if taken else R


def _contracted(dims: tuple[Dim, ...], reduce: str | None) -> Partial:
    """A result that lacks the factor: any micro-batch's, or all of theirs reduced."""
    if dims == ANY:
        return Partial("any")
    assert reduce is not None  # without one the factor would not have been chosen
    return Partial(reduce)


def _position(dims: tuple[Dim, ...], factor: str) -> int | None:
    """The dimension that a factor is part of."""
    return next((i for i, dim in enumerate(dims) if factor in dim), None)
