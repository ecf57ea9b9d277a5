"""`explain`: run a step once, report how it was split, and leave everything as it was."""

from __future__ import annotations

from typing import Any

from ..report.report import Report, report_of
from ..verify.snapshot import Snapshot
from ..verify.verify import unbound


def explain(step: Any, *args: Any, **kwargs: Any) -> Report:
    """Run the step once, restore everything that it changed, and report how it was split."""
    step, args = unbound(step, args)
    with Snapshot.of(step.fn, args, kwargs), step.session.journal.recording() as runs:
        step(*args, **kwargs)
    return report_of(step.session, runs)
