"""A training step written for one batch runs as micro-batches, with the full batch's result."""

from __future__ import annotations

from typing import Any

from .decorator import AccumulatedStep, accumulate
from .errors import AccumulateError, AccumulateWarning, BuildError
from .options import Options

__all__ = [
    "AccumulateError",
    "AccumulateWarning",
    "AccumulatedStep",
    "BuildError",
    "Options",
    "accumulate",
    "explain",
    "verify",
]


def explain(step: Any, *args: Any, **kwargs: Any) -> Any:
    """Run ``step`` on its arguments and report how it was split; nothing has changed afterwards."""
    from .verify import explain as run  # late: most steps are never explained

    return run(step, *args, **kwargs)


def verify(step: Any, *args: Any, **kwargs: Any) -> Any:
    """Run ``step`` on the full batch and split, from the same state, and report the differences."""
    from .verify import verify as run

    return run(step, *args, **kwargs)
