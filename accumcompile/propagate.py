"""Propagation: a placement and a stage for every value of a graph, from those of its inputs.

Written once: it never asks which operator a node is. The table says how dimensions line up and where an operator is
linear; the rest is here, and is the algebra of R, S and P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import sympy
import torch
from torch.fx import Graph, Node

from .operands import Operand, is_data_dependent, is_size, is_tensor, operands, reads_sizes, shape_of
from .placement import Partial, Placement, R, Replicate, Shard, Size
from .rules.rule import Alignment, Dim, Facts, Rule, Shape
from .rules.table import is_impure, rule_of
from .sizes import Batch, expression


@dataclass(frozen=True)
class Value:
    """What is known of a node: its placement (one for each result), its stage, and why.

    ``whole_stage`` is the stage at which the full value can be had without a barrier, by making it again from whole
    operands; None where only a gather gives it. ``zero`` marks a constant zero, which is at once R and P(sum).
    ``made`` says that no input that is split went into the value: a mask of indices, a constant.
    """

    placements: tuple[Placement, ...]
    stage: int = 0
    whole_stage: int | None = None
    zero: bool = False
    reason: str = ""
    made: bool = False

    @property
    def placement(self) -> Placement:
        """The placement of a node with one result."""
        return self.placements[0]


@dataclass(frozen=True)
class Need:
    """The placement in which a node takes an operand, and why."""

    placement: Placement
    cause: str = ""


@dataclass
class Propagation:
    """Placements, stages and conversions of one graph."""

    batch: Batch
    values: dict[Node, Value] = field(default_factory=dict)
    needs: dict[Node, tuple[Need, ...]] = field(default_factory=dict)

    def placement(self, node: Node) -> Placement:
        """The placement of a node's one result."""
        return self.values[node].placement

    def is_local(self, node: Node) -> bool:
        """Whether the node is computed in a loop: some result of it is S or P."""
        return any(not isinstance(p, Replicate) for p in self.values[node].placements)

    @cached_property
    def granule(self) -> int:
        """The number of samples that every micro-batch must hold a multiple of."""
        granule = 1
        for node, value in self.values.items():
            for shape, placement in zip(_shapes(node.meta.get("val")), value.placements, strict=False):
                if isinstance(placement, Shard):
                    granule = sympy.ilcm(granule, self.batch.granule(shape[placement.dim], placement.outer))
        return int(granule)


def propagate(graph: Graph, batch: Batch, inputs: Mapping[Node, Placement] | None = None) -> Propagation:
    """Place every value of ``graph``.

    Args:
        graph: a functional ATen graph with fake tensors in ``meta["val"]``.
        batch: the batch's symbol.
        inputs: placements of placeholders; left out, a tensor is sharded along its first dimension that is a
            multiple of the batch, and everything else is replicated.
    """
    result = Propagation(batch)
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op in ("placeholder", "get_attr"):
            placement = inputs.get(node, R) if inputs is not None else input_placement(node, batch)
            result.values[node] = Value((placement,), 0, 0, reason="input", made=isinstance(placement, Replicate))
        else:
            result.values[node], result.needs[node] = _Placer(result, node).place()
    return result


def input_placement(node: Node, batch: Batch) -> Placement:
    """Sharded along the first dimension that holds a whole number of rows for each sample."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        for dim, size in enumerate(value.shape):
            expr = expression(size)
            if batch.per_sample(expr) is not None and batch.granule(expr) == 1 and "//" not in str(expr):
                return Shard(dim)
    return R


def _shapes(value: object) -> tuple[Shape, ...]:
    """The shapes of all results of a node."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(tuple(expression(s) for s in v.shape) if isinstance(v, torch.Tensor) else None for v in values)


_ELEMENTWISE = {Partial("sum"), Partial("max"), Partial("min")}  # reduced element by element: may be moved about
Split = tuple[str, Size]  # a factor, and what of it lies outside of the batch


class _Placer:
    """Places one node, given the values of its operands."""

    def __init__(self, known: Propagation, node: Node):
        self.known, self.node, self.batch = known, node, known.batch
        self.operands: list[Operand] = operands(node)
        self.values = [known.values[o.node] if o.node is not None else None for o in self.operands]
        self.shapes = tuple(shape_of(o.node) for o in self.operands)
        self.results = _shapes(node.meta.get("val"))

    def place(self) -> tuple[Value, tuple[Need, ...]]:
        if self._is_item():
            return self._item()
        if is_size(self.node) and (not self.operands or reads_sizes(self.node)):
            return self._size()
        if is_impure(self.node):
            return self._universal("it draws random numbers or changes something, and runs once")
        rule = rule_of(self.node.target)
        if rule is None:
            return self._universal("it has no rule")
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
        return max(saved, key=saved.get) if saved else None

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
        if all(_position(dims, split[0]) is not None for dims in alignment.results):
            return True
        if alignment.reduce != "sum":
            return alignment.reduce is not None
        return any(
            group and all(self._contributes(i, alignment, split) for i in group) for group in alignment.linear
        )

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
            Need(self._along(dims, split, alignment.sizes) or R, f"it is split along {split[0]}")
            for dims in alignment.operands
        )
        placements = tuple(
            self._along(dims, split, alignment.sizes) or Partial(alignment.reduce) for dims in alignment.results
        )
        stage = self._stage(needs)
        made = all(v is None or v.made or isinstance(v.placement, Replicate) for v in self.values)
        whole = self._whole_stage() if rule.moves or rule.elementwise or made else None
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
        """A factor of batch size that no operand has: a factory's, or a broadcast's."""
        used = {factor for dims in alignment.operands for dim in dims for factor in dim}
        for dim in alignment.results[0] if len(alignment.results) == 1 else ():
            for factor in dim:
                size = alignment.sizes[factor]
                if factor not in used and self.batch.per_sample(size) is not None and self.batch.granule(size) == 1:
                    return factor, 1
        return None

    # --- partial values

    def _partial_passes(self, rule: Rule, alignment: Alignment) -> bool:
        """Whether the partial operands are all of those in which the operator is jointly linear."""
        partial = {i for i, v in enumerate(self.values) if v is not None and isinstance(v.placement, Partial)}
        if not partial or self._new_batch_dim(alignment) is not None:
            return False
        ops = {self.values[i].placement for i in partial}
        if rule.moves and len(partial) == len(self.operands) and len(ops) == 1 and ops <= _ELEMENTWISE:
            return True
        if ops != {Partial("sum")}:
            return False
        return any(
            partial <= group and all(i in partial or self._is_absent(i) for i in group) for group in alignment.linear
        )

    def _is_absent(self, i: int) -> bool:
        """Whether an operand adds nothing: it is not there, or zero."""
        if i >= len(self.operands) or self.operands[i].absent:
            return True
        return self.values[i] is not None and self.values[i].zero

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
        return any(
            isinstance(size, sympy.Expr) and any(is_data_dependent(s) for s in size.free_symbols)
            for shape in (*self.shapes, *self.results)
            for size in shape or ()
        )


def _position(dims: tuple[Dim, ...], factor: str) -> int | None:
    """The dimension that a factor is part of."""
    return next((i for i, dim in enumerate(dims) if factor in dim), None)


def elements(node: Node) -> int:
    """A rough number of elements, every symbol taken as 64: to weigh values against each other."""
    count = 1
    for size in shape_of(node) or ():
        count *= size if isinstance(size, int) else int(size.subs(dict.fromkeys(size.free_symbols, 64)))
    return count


__all__ = ["Need", "Propagation", "Value", "input_placement", "is_tensor", "propagate", "shape_of"]
