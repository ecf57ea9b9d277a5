"""Outputs that are held for the full batch: a warning, given once, if they take much memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy
from torch.fx import GraphModule

from ..diagnostics import errors
from ..ir.operands import input_sizes
from ..printing.text import human
from ..session.journal import Run
from ..session.session import Session
from .entries import GraphEntry
from .plan import Plan
from .report_text import KEPT_FIX

MUCH = 10  # a tenth of the peak
LEAST = 16 << 20  # bytes below which no warning is given


def first_run(plan: Plan, gm: GraphModule, session: Session) -> Run:
    """The run for which a graph is compiled, with the sizes that its inputs have now."""
    sizes = dict(_hints(gm))
    batch = sizes.get(plan.batch, 1)  # a piece without the batch has no such symbol
    return Run(plan, sizes, session.split(batch, plan.granule))


def _hints(gm: GraphModule) -> Iterator[tuple[sympy.Symbol, int]]:
    """Each symbol that is an input, or an input's size, with its current value; data-dependent ones have none."""
    for size in input_sizes(gm):
        if isinstance(size.node.expr, sympy.Symbol) and size.node.has_hint():
            yield size.node.expr, int(size.node.hint)


def at_most(run: Run) -> Run:
    """The run with each data-dependent size guessed as the largest known one, so that no warning is missed."""
    values = [m for step in (*run.plan.program, *run.plan.unsplit) for m in step.makes]
    sizes = [size for m in values for size in m.shape if isinstance(size, sympy.Expr)]
    unknown = set().union(*(size.free_symbols for size in sizes)) - run.sizes.keys()
    return replace(run, sizes={**run.sizes, **dict.fromkeys(unknown, max(run.sizes.values(), default=1))})


def warn_of_kept(run: Run, session: Session) -> None:
    """Warn if a training graph's outputs for the full batch are large, and more than a tenth of its peak.

    Other graphs exist to produce their outputs: a teacher's predictions, a model without its loss.
    """
    if run.plan.road != "fused" or not run.plan.kept:
        return
    run = at_most(run)
    graph = GraphEntry.of(run, calls=1)
    held = sum(value.bytes for value in graph.kept)
    if held >= LEAST and held * MUCH > graph.estimated_bytes:
        largest = max(run.plan.kept, key=lambda value: value.bytes(run.sizes))
        names = ", ".join(dict.fromkeys(value.name for value in graph.kept))
        facts = {"bytes": human(held), "peak": human(graph.estimated_bytes), "fix": KEPT_FIX}
        errors.warn("AC033", session, largest.frame, names=names, **facts)
