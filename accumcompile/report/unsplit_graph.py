"""A graph of which little could be split: a warning, given once."""

from __future__ import annotations

from ..diagnostics import errors
from ..printing.text import human
from ..session.journal import Run
from ..session.session import Session
from .entries import GraphEntry
from .kept_outputs import LEAST, at_most

TRAINING = ("fused", "backward")


def warn_of_unsplit(run: Run, session: Session) -> None:
    """Warn if a training graph runs partly on the full batch, and so saves little of the full batch's memory."""
    if run.plan.road not in TRAINING or not run.plan.whole:
        return
    graph = GraphEntry.of(at_most(run), calls=1)
    if graph.full_batch_bytes < LEAST:
        return
    if graph.estimated_bytes > graph.full_batch_bytes * _most(len(run.split)):
        facts = {"peak": human(graph.estimated_bytes), "full": human(graph.full_batch_bytes)}
        errors.warn("AC035", session, (run.plan.turning_whole or run.plan.whole[0]).frame, **facts)


def _most(micro_batches: int) -> float:
    """The largest share of the full batch's memory without a warning: half, or that of two micro-batches."""
    return max(1 / 2, 2 / micro_batches)
