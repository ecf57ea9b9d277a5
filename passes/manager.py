"""Running passes. A pass makes a graph of a graph, ``(gm, context) -> gm``, and changes neither."""

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
Observer: TypeAlias = Callable[[str, GraphModule, float], None]  # a pass's name, what it made, in how many seconds


@dataclass(frozen=True)
class Context:
    """What passes over a captured graph are told: the batch, and what the user calls the inputs and outputs."""

    batch: Batch = NO_BATCH
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Planned:
    """What passes over a program are told; ``accumulator_dtype`` is the option."""

    schedule: Schedule
    accumulator_dtype: torch.dtype | None = None


def run(pipeline: Iterable[Pass[C]], gm: GraphModule, context: C, observers: Iterable[Observer] = ()) -> GraphModule:
    """What the passes make of ``gm``, one after the other; observers see what each of them made."""
    observers = list(observers)
    for rewrite in pipeline:
        begun = time.perf_counter()
        gm = rewrite(gm, context)
        seconds = time.perf_counter() - begun
        for observe in observers:
            observe(rewrite.__name__, gm, seconds)
    return gm
