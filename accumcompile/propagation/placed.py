"""What propagation knows of a graph: of every node how it takes its operands, and where its results live."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch.fx import Node

from ..ir.operands import Operand, shape_of, shapes_of
from ..ir.placement import Layout, Placement, Replicate, Shard, Size
from ..ir.sizes import Batch


@dataclass(frozen=True)
class Need:
    """Where a node needs an operand to live, and why."""

    layout: Layout
    cause: str = ""

    @property
    def placement(self) -> Placement:
        """Along time."""
        return self.layout.time


@dataclass(frozen=True)
class Placed:
    """A node with its place in the program.

    ``results`` has a layout for each result, ``needs`` one for each tensor operand. ``local`` are the operands that
    are taken from the node's own micro-batch, ``whole`` those that are taken whole: as constants, or to be sliced;
    ``sizes_from`` are tensors whose data (not their sizes) the sizes among the arguments come from.

    ``whole_stage`` is the stage at which the full value can be had without a barrier, by making it again from whole
    operands; None where only a gather gives it. ``remade`` says that the full value, if it is read, is computed from
    whole operands, and not assembled by a loop. ``zero`` marks a constant zero, which is at once R and P(sum).
    ``unsplit`` says that no input that is split went into the value: a mask of indices, a constant.
    """

    node: Node
    results: tuple[Layout, ...]
    operands: tuple[Operand, ...] = ()
    needs: tuple[Need, ...] = ()
    stage: int = 0
    whole_stage: int | None = None
    zero: bool = False
    unsplit: bool = False
    remade: bool = False
    local: tuple[Node, ...] = ()
    whole: tuple[Node, ...] = ()
    sizes_from: tuple[Node, ...] = ()
    reason: str = ""

    @property
    def placement(self) -> Placement:
        """Of the one result, along time."""
        return self.results[0].time

    @property
    def place(self) -> str:
        """As a dump writes it: ``S(0) @1``."""
        return f"{', '.join(map(str, self.placements))} @{self.stage}"

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Of every result, along time."""
        return tuple(layout.time for layout in self.results)

    @property
    def is_local(self) -> bool:
        """Whether the node is computed in a loop: some result of it is S or P."""
        return any(not isinstance(p, Replicate) for p in self.placements)

    @property
    def has_many(self) -> bool:
        """Whether there are several results, which only ``getitem`` reads."""
        return len(self.results) > 1

    def takes(self) -> Iterator[tuple[Operand, Need]]:
        """Each tensor operand, and where it is needed to live."""
        return zip(self.operands, self.needs, strict=True)

    def shards(self) -> Iterator[tuple[tuple[Size, ...], Shard]]:
        """Everything that the node takes or gives in parts: its full shape, and how it is split."""
        results = zip(shapes_of(self.node), self.placements, strict=False)
        taken = ((shape_of(operand.node), need.placement) for operand, need in self.takes())
        for shape, placement in (*results, *taken):
            if shape is not None and isinstance(placement, Shard):
                yield shape, placement


@dataclass
class Propagation:
    """Every node of one graph with its place."""

    batch: Batch
    placed: dict[Node, Placed] = field(default_factory=dict)
    granule: int = 1  # the number of samples that every micro-batch must hold a multiple of
    drawn: int = 0  # the stage of the last node so far that runs only once

    def place(self, placed: Placed) -> None:
        """Enter what is known of a node."""
        self.placed[placed.node] = placed
        for shape, shard in placed.shards():
            self.granule = math.lcm(self.granule, self.batch.granule(shape[shard.dim], shard.outer))

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
