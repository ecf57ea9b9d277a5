"""A schedule: which loop computes what. Schedules are immutable; each decision makes a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
from torch.fx import Graph, Node

from ..propagation.placed import Propagation


@dataclass(frozen=True)
class Loop:
    """One loop: its outputs, and the nodes of its body in order."""

    stage: int
    roots: tuple[Node, ...]  # P values reduced and S values gathered after it
    nodes: tuple[Node, ...] = ()
    saved: tuple[Node, ...] = ()  # S values kept for later loops
    remade: tuple[Node, ...] = ()  # S values that it takes slices of, and that are computed whole before it
    over: sympy.Symbol | None = None  # the derived rows that it runs over; None: the batch
    at_once: bool = False  # so small that it runs as one micro-batch
    regions: tuple[frozenset[Node], ...] = ()  # parts of the body whose inner values are recomputed, not held


@dataclass(frozen=True)
class Schedule:
    """The loops of a graph, in order, and the outputs of the graph."""

    graph: Graph
    propagation: Propagation
    loops: tuple[Loop, ...]
    outputs: tuple[Any, ...]
