"""Runs passes. A pass maps a graph to a new graph, ``(gm, context) -> gm``, and mutates neither argument."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import torch
from torch.fx import GraphModule

from accumcompile.ir.names import Names
from accumcompile.ir.sizes import NO_BATCH, Batch
from accumcompile.planning.schedule import Schedule

C = TypeVar("C")
Pass: TypeAlias = Callable[[GraphModule, C], GraphModule]
Observer: TypeAlias = Callable[[str, GraphModule, float], None]  # a pass's name, its result, and its seconds


@dataclass(frozen=True)
class Context:
    """The context of passes over a captured graph: the batch, and the user's names for its values."""

    batch: Batch = NO_BATCH
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Planned:
    """The context of passes that make a program; ``accumulator_dtype`` is the option."""

    schedule: Schedule
    accumulator_dtype: torch.dtype | None = None


def run(pipeline: Iterable[Pass[C]], gm: GraphModule, context: C, observers: Iterable[Observer] = ()) -> GraphModule:
    """Run the passes on ``gm``, one after the other; observers see the result of each."""
    observers = list(observers)
    for rewrite in pipeline:
        begun = time.perf_counter()
        gm = rewrite(gm, context)
        seconds = time.perf_counter() - begun
        for observe in observers:
            observe(rewrite.__name__, gm, seconds)
    return gm
