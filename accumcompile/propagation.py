"""What propagation knows of a graph: the placement, the stage and the reason of every value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch.fx import Node

from .operands import shapes_of
from .placement import Placement, Replicate, Shard
from .sizes import Batch


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
    drawn: int = 0  # the stage of the last node so far that runs only once

    granule: int = 1  # the number of samples that every micro-batch must hold a multiple of

    def place(self, node: Node, value: Value, needs: tuple[Need, ...] | None = None) -> None:
        """Enter what is known of a node."""
        self.values[node] = value
        if needs is not None:
            self.needs[node] = needs
        for shape, placement in zip(shapes_of(node), value.placements, strict=False):
            if isinstance(placement, Shard) and shape is not None:
                rows = self.batch.granule(shape[placement.dim], placement.outer)
                self.granule = math.lcm(self.granule, rows)

    def placement(self, node: Node) -> Placement:
        """The placement of a node's one result."""
        return self.values[node].placement

    def is_local(self, node: Node) -> bool:
        """Whether the node is computed in a loop: some result of it is S or P."""
        return any(not isinstance(p, Replicate) for p in self.values[node].placements)
