"""What the compiler decided for one graph: facts only, nothing that runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import sympy
import torch

from ..diagnostics.where import Frame
from ..ir.binding import Binding, value
from ..ir.loop import Split
from ..ir.placement import Size
from ..planning.memory import Step, volume


@dataclass(frozen=True)
class ValueFact:
    """A value as reports show it. ``shape`` is the full batch's, in the symbols of the graph."""

    name: str
    shape: tuple[sympy.Expr | int, ...]
    dtype: torch.dtype | None
    placement: str
    where: str = ""  # "file:line" of the innermost frame outside installed packages
    code: str = ""  # that line's text
    sliced_from: str = ""  # its placement outside the loop that slices it
    function: str = ""  # the function that the line is in
    accumulated_in: torch.dtype | None = None  # if different from its own dtype

    def bytes(self, sizes: Binding) -> int:
        """Bytes of the full value, as a loop accumulates it, with the graph's symbols bound by ``sizes``."""
        dtype = self.accumulated_in or self.dtype
        return volume(self.shape, sizes) * (dtype.itemsize if dtype else 8)

    def alone(self) -> ValueFact:
        """The value of a single micro-batch, for which nothing is accumulated."""
        return replace(self, accumulated_in=None)

    @property
    def frame(self) -> Frame | None:
        """The user's line that made it."""
        file, _, line = self.where.rpartition(":")
        return Frame(file, int(line), self.function, self.code) if file else None


@dataclass(frozen=True)
class BarrierFact:
    """A reduce or gather whose result is needed by a later loop."""

    kind: str  # "reduce" or "gather"
    value: ValueFact
    stage: int  # the loop after which it happens
    cause: str  # why, in words: the operator that needs the whole value
    path: tuple[str, ...] = ()  # "z S(0)", "gather R", "cdist R"
    over: str = ""  # the derived rows of that loop


@dataclass(frozen=True)
class LoopFact:
    """One loop of the program."""

    stage: int
    consts: tuple[ValueFact, ...]
    xs: tuple[ValueFact, ...]
    carry: tuple[ValueFact, ...]
    ys: tuple[ValueFact, ...]
    nodes: int  # operators in the body
    at_once: bool = False  # so small that it runs as one micro-batch
    over: str = ""  # the derived rows that it runs over, if not the batch
    count: Size = 0  # how many of them there are, and how many stay together
    granule: int = 1
    body: tuple[Step, ...] = field(default=(), repr=False)

    def split_of(self, batch: Split, sizes: Binding) -> Split | None:
        """How one call splits the loop's rows; None if data decides how many there are."""
        rows = value(self.count, sizes) if self.over else None
        if self.over and rows is None:
            return None
        split = batch if rows is None else batch.along(rows, self.granule)
        return split.at_once() if self.at_once else split


@dataclass(frozen=True)
class Plan:
    """The plan of one captured graph. ``road`` is "fused", "forward", "backward" or "inference"."""

    road: str
    batch: sympy.Symbol
    granule: int
    loops: tuple[LoopFact, ...]
    barriers: tuple[BarrierFact, ...]
    kept: tuple[ValueFact, ...] = ()
    whole: tuple[ValueFact, ...] = ()  # computed on the full batch, between loops
    program: tuple[Step, ...] = field(default=(), repr=False)
    unsplit: tuple[Step, ...] = field(default=(), repr=False)  # the graph run on the full batch
    turning_whole: ValueFact | None = None  # made by the operator that takes the largest split operand whole
