"""A training step written for one batch runs as micro-batches, with the full batch's result."""

from __future__ import annotations

from .diagnostics.errors import AccumulateError, AccumulateWarning, BuildError
from .rules.register import register_rule
from .rules.rule import Rule
from .session.options import Options
from .step.decorator import AccumulatedStep, accumulate
from .step.explain import explain
from .verify.verify import verify

__all__ = [
    "AccumulateError",
    "AccumulateWarning",
    "AccumulatedStep",
    "BuildError",
    "Options",
    "Rule",
    "accumulate",
    "explain",
    "register_rule",
    "verify",
]
