"""Indexing by ``arange`` over the batch, rewritten as a lookup within each row.

Before::

    index = aten.index.Tensor(x, [iota, y])                   # x: [s0, c, d], iota: 0 .. s0 - 1, y: [s0]

After::

    column = aten.expand.default(aten.view.default(y, [s0, 1, 1]), [s0, 1, d])
    index = aten.view.default(aten.gather.default(x, 1, column), [s0, d])

``logits[torch.arange(n), labels]`` picks within each row, whereas an index in general could pick any row. Of x's
dimensions, those indexed by an ``arange`` ("counted": the batch's, and perhaps others) come first, those that are
looked up are merged into one, and the rest follow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.sizes import Batch, expression

from .manager import Context
from .rewriting import Emit, product, rewrite, scalar, sizes_of

aten, prims = torch.ops.aten, torch.ops.prims

Position = Callable[[Emit, Node, Any], Node]  # (emit, index, size) -> the index as a position from 0 on


def arange_lookups(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite indexing by ``arange`` over the batch as a gather or scatter; leave other indexing alone."""
    return rewrite(gm, {op: _by_arange(*row, context.batch) for op, row in _TABLE.items()})


def _by_arange(row: Callable, position: Position, batch: Batch):
    def guarded(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Any:
        x, *others = args
        given = next(a for a in others if isinstance(a, (list, tuple)))
        indices = {d: index for d, index in enumerate(given) if index is not None}
        counted = _counted(x, indices, batch)
        if not counted:
            return None
        return row(_Lookup(emit, x, indices, counted, position), *(a for a in others if a is not given), **kwargs)

    return guarded


def _counted(x: Node, indices: dict[int, Node], batch: Batch) -> dict[int, int]:
    """For each dimension of ``x`` whose index counts its rows, the dimension of the indices along which it counts.

    Empty if no index counts the batch, if every index counts (which no one writes), or if one is a mask.
    """
    if any(index.meta["val"].dtype not in (torch.int32, torch.int64) for index in indices.values()):
        return {}
    rank, sizes = _rank(indices), [expression(size) for size in x.meta["val"].shape]
    counted = {
        d: place + rank - index.meta["val"].dim()
        for d, index in indices.items()
        if (place := _place(index)) is not None and expression(index.meta["val"].shape[place]) == sizes[d]
    }
    distinct = len(set(counted.values())) == len(counted) < len(indices)
    return counted if distinct and any(batch.is_of_rows(sizes[d]) for d in counted) else {}


def _rank(indices: dict[int, Node]) -> int:
    return max(index.meta["val"].dim() for index in indices.values())


def _place(index: Node) -> int | None:
    """The dimension along which a tensor counts 0, 1, 2, ... and is otherwise constant; None if there is none."""
    way = [index]
    while way[-1].target in _KEEPS_COUNT:
        way.append(way[-1].args[0])
    start = way.pop()
    if start.target is not prims.iota.default or (start.kwargs["start"], start.kwargs["step"]) != (0, 1):
        return None
    place: int | None = 0
    for node in reversed(way):
        place = None if place is None else _kept_place(node, place)
    return place


def _kept_place(node: Node, before: int) -> int | None:
    """The dimension along which ``node`` counts, if its operand counts along ``before``."""
    source, result = (list(map(expression, n.meta["val"].shape)) for n in (node.args[0], node))
    if node.target is aten.view.default:
        lengths = [d for d, size in enumerate(result) if size != 1]
        return lengths[0] if len(lengths) == 1 and result[lengths[0]] == source[before] else None
    return before + len(result) - len(source)


_KEEPS_COUNT = (aten.view.default, aten.expand.default, prims.convert_element_type.default)


@dataclass(frozen=True)
class _Lookup:
    """An indexing by tensors that broadcast together, some of which count.

    ``x`` is viewed as [counted..., looked up (merged), rest...], the result as [counted..., others (merged), rest...].
    """

    emit: Emit
    x: Node
    indices: dict[int, Node]
    counted: dict[int, int]
    position: Position

    def get(self) -> Node:
        """The elements that the indices pick."""
        x = _grouped(self.emit, self.x, self._dims)
        picked = self.emit(aten.gather.default, x, len(self.counted), self._index())
        return _ungrouped(self.emit, picked, self._places, self._result_sizes())

    def put(self, values: Node, accumulate: bool = False) -> Node:
        """``x`` with the values put, or added, where the indices point."""
        x = _grouped(self.emit, self.x, self._dims)
        values = self.emit(aten.expand.default, values, self._result_sizes())
        op = aten.scatter_add.default if accumulate else aten.scatter.src
        source = _grouped(self.emit, values, self._places)
        done = self.emit(op, x, len(self.counted), self._index(), source)
        return _ungrouped(self.emit, done, self._dims, self._sizes)

    def masked_get(self, mask: Node, fill: float) -> Node:
        """The elements that the indices pick where ``mask`` is true, else ``fill``."""
        return self.emit(aten.where.self, mask, (picked := self.get()), scalar(self.emit, fill, picked))

    def masked_put(self, mask: Node, values: Node) -> Node:
        """``x`` with the values where ``mask`` is true added where the indices point."""
        return self.put(self.emit(aten.where.self, mask, values, scalar(self.emit, 0, values)), accumulate=True)

    @property
    def _sizes(self) -> list[Any]:
        return sizes_of(self.emit, self.x)

    @property
    def _rest(self) -> list[int]:
        return [d for d in range(self.x.meta["val"].dim()) if d not in self.indices]

    @property
    def _looked_up(self) -> list[int]:
        return [d for d in self.indices if d not in self.counted]

    @property
    def _dims(self) -> list[list[int]]:
        """x's dimensions, grouped: each counted one, in the order of the result; those looked up; each of the rest."""
        counted = sorted(self.counted, key=self.counted.__getitem__)
        return [[d] for d in counted] + [self._looked_up] + [[d] for d in self._rest]

    @property
    def _index_places(self) -> list[list[int]]:
        """The indices' dimensions, grouped: each that counts, then the others."""
        counted = sorted(self.counted.values())
        return [[p] for p in counted] + [[p for p in range(_rank(self.indices)) if p not in counted]]

    @property
    def _places(self) -> list[list[int]]:
        """The result's dimensions, grouped as x's."""
        rank, ahead = _rank(self.indices), self._ahead
        rest = [d if d < ahead else d + rank for d in range(len(self._rest))]
        return [[p + ahead for p in group] for group in self._index_places] + [[d] for d in rest]

    @property
    def _ahead(self) -> int:
        """How many dimensions precede the indices' in the result; 0 if the indices are not adjacent."""
        given = list(self.indices)
        return given[0] if given == list(range(given[0], given[-1] + 1)) else 0

    def _index_sizes(self) -> list[Any]:
        """The shape that the indices broadcast to."""
        rank = _rank(self.indices)
        sizes: list[Any] = [1] * rank
        for index in self.indices.values():
            for d, size in enumerate(sizes_of(self.emit, index), rank - index.meta["val"].dim()):
                sizes[d] = sizes[d] if isinstance(size, int) and size == 1 else size
        return sizes

    def _result_sizes(self) -> list[Any]:
        rest = [self._sizes[d] for d in self._rest]
        return rest[: self._ahead] + self._index_sizes() + rest[self._ahead :]

    def _index(self) -> Node:
        """The positions to look up: [counted..., others (merged), rest...]."""
        position = self.emit(aten.expand.default, self._flat(), self._index_sizes())
        column = _grouped(self.emit, position, self._index_places)
        shape, rest = sizes_of(self.emit, column), [self._sizes[d] for d in self._rest]
        if not rest:
            return column
        column = self.emit(aten.view.default, column, shape + [1] * len(rest))
        return self.emit(aten.expand.default, column, shape + rest)

    def _flat(self) -> Node:
        """Positions in the looked-up dimensions, flattened into one."""
        first, *others = self._looked_up
        total = self._along(first)
        for d in others:
            total = self.emit(aten.add.Tensor, self.emit(aten.mul.Tensor, total, self._sizes[d]), self._along(d))
        return total

    def _along(self, d: int) -> Node:
        """Positions along x's dimension ``d``, from 0 on."""
        index = self.emit(prims.convert_element_type.default, self.indices[d], torch.int64)
        return self.position(self.emit, index, self._sizes[d])


def _from_either_end(emit: Emit, index: Node, size: Any) -> Node:
    """A negative index counts from the end."""
    negative, from_end = emit(aten.lt.Scalar, index, 0), emit(aten.add.Tensor, index, size)
    return emit(aten.where.self, negative, from_end, index)


def _inside(emit: Emit, index: Node, size: Any) -> Node:
    """Clamp an index: one that is masked out may point anywhere."""
    return emit(aten.clamp_max.default, emit(aten.clamp_min.default, index, 0), emit(operator.sub, size, 1))


def _as_it_is(emit: Emit, index: Node, size: Any) -> Node:
    return index


def _grouped(emit: Emit, x: Node, groups: list[list[int]]) -> Node:
    """``x`` with the dimensions of each group merged into one, in the order of the groups."""
    sizes = sizes_of(emit, x)
    moved = emit(aten.permute.default, x, [d for group in groups for d in group])
    return emit(aten.view.default, moved, [product(emit, [sizes[d] for d in group]) for group in groups])


def _ungrouped(emit: Emit, x: Node, groups: list[list[int]], sizes: list[Any]) -> Node:
    """The inverse: ``sizes`` are those before the grouping."""
    order = [d for group in groups for d in group]
    flat = emit(aten.view.default, x, [sizes[d] for d in order])
    return emit(aten.permute.default, flat, [order.index(d) for d in range(len(order))])


_TABLE: dict[Any, tuple[Callable, Position]] = {
    aten.index.Tensor: (_Lookup.get, _from_either_end),
    aten._unsafe_index.Tensor: (_Lookup.get, _as_it_is),
    aten._unsafe_masked_index.default: (_Lookup.masked_get, _inside),
    aten.index_put.default: (_Lookup.put, _from_either_end),
    aten._unsafe_index_put.default: (_Lookup.put, _as_it_is),
    aten._unsafe_masked_index_put_accumulate.default: (_Lookup.masked_put, _inside),
}
