"""The result of propagation: for every node, how it takes its operands, and the placements of its results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import sympy
from torch.fx import Node

from ..ir.derived import Derived
from ..ir.operands import Operand, data_symbols, shape_of, shapes_of
from ..ir.placement import Layout, Placement, Replicate, Shard, Size
from ..ir.sizes import Batch


@dataclass(frozen=True)
class Need:
    """The placement in which a node needs an operand, and why."""

    layout: Layout
    cause: str = ""

    @property
    def placement(self) -> Placement:
        """The placement along time."""
        return self.layout.time


@dataclass(frozen=True)
class Placed:
    """A node with its placement and stage.

    ``results`` has a layout for each result, ``needs`` one for each tensor operand. ``local`` are the operands that
    are taken from the node's own micro-batch, ``whole`` those that are taken whole: as constants, or to be sliced;
    ``sizes_from`` are tensors whose data (not shape) determines sizes among the arguments.

    ``whole_stage`` is the stage at which the full value is available without a barrier, by recomputing it from whole
    operands; None if that takes a gather. ``remade`` says that the full value, if it is read, is computed from whole
    operands, and not assembled by a loop. ``zero`` marks a constant zero, which is both R and P(sum). ``unsplit``
    says that the value does not depend on any split input: a mask of indices, a constant. A ``seed`` is computed whole,
    by an operator that needs the whole batch, and loops over its rows slice it.
    """

    node: Node
    results: tuple[Layout, ...]
    operands: tuple[Operand, ...] = ()
    needs: tuple[Need, ...] = ()
    stage: int = 0
    whole_stage: int | None = None
    zero: bool = False
    unsplit: bool = False
    seed: bool = False
    remade: bool = False
    local: tuple[Node, ...] = ()
    whole: tuple[Node, ...] = ()
    sizes_from: tuple[Node, ...] = ()
    reason: str = ""

    @property
    def placement(self) -> Placement:
        """The placement of the single result along time."""
        return self.results[0].time

    @property
    def place(self) -> str:
        """Placements and stage, as written in a dump: ``S(0) @1``."""
        return f"{', '.join(map(str, self.placements))} @{self.stage}"

    @property
    def placements(self) -> tuple[Placement, ...]:
        """The placement of every result along time."""
        return tuple(layout.time for layout in self.results)

    @property
    def is_local(self) -> bool:
        """Whether the node is computed in a loop: some result is S or P."""
        return any(not isinstance(p, Replicate) for p in self.placements)

    @property
    def has_many(self) -> bool:
        """Whether there are several results, which only ``getitem`` reads."""
        return len(self.results) > 1

    def takes(self) -> Iterator[tuple[Operand, Need]]:
        """Each tensor operand, and how it is needed."""
        return zip(self.operands, self.needs, strict=True)

    def shards(self) -> Iterator[tuple[tuple[Size, ...], Shard]]:
        """The full shape and the placement of every sharded operand and result."""
        results = zip(shapes_of(self.node), self.placements, strict=False)
        taken = ((shape_of(operand.node), need.placement) for operand, need in self.takes())
        for shape, placement in (*results, *taken):
            if shape is not None and isinstance(placement, Shard):
                yield shape, placement


@dataclass
class Propagation:
    """Every node of one graph with its placement and stage.

    ``derived`` are the numbers of rows, by symbol, that loops run over besides the batch; ``makers`` the first node of
    each data-dependent size; ``seeds`` values that are split although they are computed whole. Where a node may be
    split along several, it is along ``preferred`` ones; ``rivals`` are all that met in such a node.
    """

    batch: Batch
    derived: Mapping[sympy.Symbol, Derived] = field(default_factory=dict)
    makers: Mapping[sympy.Basic, tuple[Node, int | None]] = field(default_factory=dict)
    seeds: AbstractSet[Node] = frozenset()
    preferred: AbstractSet[sympy.Symbol | None] = frozenset()
    rivals: set[sympy.Symbol | None] = field(default_factory=set)
    placed: dict[Node, Placed] = field(default_factory=dict)
    granules: dict[sympy.Symbol | None, int] = field(default_factory=dict)
    drawn: int = 0  # the stage of the last run-once node placed so far

    def place(self, placed: Placed) -> None:
        """Record a node's placement and stage."""
        self.placed[placed.node] = placed
        for shape, shard in placed.shards():
            granule = self.rows_of(shard.over).granule(shape[shard.dim], shard.outer)
            self.granules[shard.over] = math.lcm(self.granule(shard.over), granule)

    def rows_of(self, over: sympy.Symbol | None) -> Batch:
        """The batch, or the derived rows with this symbol."""
        return self.batch if over is None else self.derived[over]

    def shard_of(self, shape: Iterable[Size] | None) -> Shard | None:
        """The placement of a whole value along its first dimension of rows, the batch's before derived ones."""
        for over, rows in {None: self.batch, **self.derived}.items():
            for dim, size in enumerate(shape or ()):
                if rows.per_sample(size) is not None:
                    return Shard(dim, over=over)
        return None

    def granule(self, over: sympy.Symbol | None = None) -> int:
        """The number of samples, or of derived rows, that every micro-batch must hold a multiple of."""
        return self.granules.get(over, 1)

    def makers_of(self, size: object) -> list[Node]:
        """The nodes that introduce the data-dependent symbols in a size."""
        return [self.makers[symbol][0] for symbol in data_symbols(size) if symbol in self.makers]

    def count_of(self, over: sympy.Symbol | None) -> Size:
        """How many rows there are of the batch, or of derived rows."""
        return self.batch.symbol if over is None else self.derived[over].count

    def __getitem__(self, node: Node) -> Placed:
        return self.placed[node]

    def __contains__(self, node: Node) -> bool:
        return node in self.placed

    def __iter__(self) -> Iterator[Placed]:
        return iter(self.placed.values())

    def placement(self, node: Node) -> Placement:
        """The placement of a node's one result."""
        return self.placed[node].placement

    def closure(self, roots: Iterable[Node], stop: Iterable[Node] = ()) -> set[Node]:
        """The roots and every local value they are computed from, not going past ``stop``."""
        stop, seen, stack = set(stop), set(), list(roots)
        while stack:
            node = stack.pop()
            if node in seen or node in stop or node.op != "call_function":
                continue
            seen.add(node)
            stack += self.placed[node].local
        return seen
