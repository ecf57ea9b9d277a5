"""`explain`: run a step once, report how it was split, and leave everything as it was."""

from __future__ import annotations

from typing import Any

from ..report.report import Report, report_of
from ..verify import differentiated
from ..verify.snapshot import Snapshot
from ..verify.verify import unbound


def explain(step: Any, *args: Any, **kwargs: Any) -> Report:
    """Run the step once, restore everything that it changed, and report how it was split.

    If the step calls no ``backward()`` and returns a loss, that loss is differentiated too, as the step's caller does.
    """
    step, args = unbound(step, args)
    with Snapshot.of(step.fn, args, kwargs), step.session.journal.recording() as runs:
        differentiated.run(step, args, kwargs)
    return report_of(step.session, runs)
