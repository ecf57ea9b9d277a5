"""How a step was split while something trained: equality alone would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def recorded(step: Any, train: Callable[[], Any]) -> tuple[Any, list[tuple[str, int, int]]]:
    """What ``train()`` returns, and (road, batch, micro-batches) of each graph that ran meanwhile."""
    with step.session.journal.recording() as runs:
        result = train()
    return result, [(run.plan.road, run.split.batch, len(run.split)) for run in runs]
