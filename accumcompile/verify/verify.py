"""`verify`: run a step in several ways, compare what each did, and leave everything as it was.

It runs the step accumulated, on the full batch under the same lowering, and eagerly; in precisions
below float64 once more in float64. Each run starts from the same state, which is restored afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from accumcompile.diagnostics import errors, where
from accumcompile.ir.loop import Split
from accumcompile.printing.text import plain
from accumcompile.verify.compare import EXACT, FLOORS, TOLERANCES, Comparison, Verification, compare, of_precision
from accumcompile.verify.float64 import NoReferenceError, in_float64
from accumcompile.verify.record import Record, record
from accumcompile.verify.snapshot import Snapshot
from accumcompile.verify.verify_text import render_verification


class VerifyReport(Verification):
    """What `verify` found. `str()` of it is a table of the largest difference in each group of values."""

    def __rich__(self):
        return render_verification(self)

    def __str__(self) -> str:
        return plain(self.__rich__())


def verify(step: Any, *args: Any, **kwargs: Any) -> VerifyReport:
    """Run the step accumulated and on the full batch, and compare every value that it returns or changes.

    It passes if, in float64, no difference exceeds 1e-10; in lower precisions, if the error against a float64 run
    is at most twice the full batch's own. If the step calls no ``backward()`` and returns a loss, that loss is
    differentiated too, as the step's caller does. Everything the step can reach is restored afterwards.
    """
    step, args = unbound(step, args)
    with Snapshot.of(step.fn, args, kwargs) as snapshot:
        runs = _Runs(step, args, kwargs, snapshot)
        with step.session.journal.recording() as journal:
            accumulated = runs.run(step)
        with _in_one_micro_batch(step):
            full = runs.run(step)
        eager = runs.run_eagerly()
        reference, notes = runs.reference(full, eager)
    return _judged(step, accumulated, full, eager, reference, notes, [run.split for run in journal])


def unbound(step: Any, args: tuple) -> tuple[Any, tuple]:
    """The step and its arguments; for a decorated method, `self` comes first."""
    if hasattr(step, "__func__") and hasattr(step, "__self__"):
        step, args = step.__func__, (step.__self__, *args)
    if not hasattr(step, "session"):
        raise errors.error("AC007", where.users_line(), step=where.named(getattr(step, "__qualname__", repr(step))))
    return step, args


@contextmanager
def _in_one_micro_batch(step: Any):
    """Within the block, the step runs the full batch as one micro-batch, under the same lowering."""
    before = step.session.options
    step.session.change(steps=1, micro_batch_size=None)
    try:
        yield
    finally:
        step.session.options = before


class _Runs:
    """Runs the variants of a step from one state."""

    def __init__(self, step: Any, args: tuple, kwargs: dict[str, Any], snapshot: Snapshot) -> None:
        self.step, self.args, self.kwargs, self.snapshot = step, args, kwargs, snapshot

    def run(self, variant: Callable, watch: bool = False) -> Record:
        try:
            return record(variant, self.step.fn, self.args, self.kwargs, watch)
        finally:
            self.snapshot.restore()

    def run_eagerly(self) -> Record:
        """Run the user's function eagerly; a model that the user compiled runs uncompiled."""
        with torch.compiler.set_stance("force_eager"):
            return self.run(self.step.fn, watch=True)

    def reference(self, full: Record, eager: Record) -> tuple[Record | None, list[str]]:
        """Run the step in float64 on the full batch, unless it computes in float64 already."""
        if _computes_in_float64(full):
            return None, []
        try:
            with in_float64(self.snapshot):
                if not eager.drew:
                    return self.run_eagerly(), []
                with _in_one_micro_batch(self.step):
                    return _same_numbers(self.run(self.step), full, eager.eps), []
        except NoReferenceError as reason:
            return None, [f"no float64 reference: {reason}"]
        except Exception as error:
            return None, [f"no float64 reference: the step does not run in float64 ({_first_line(error)})"]
        finally:
            self.snapshot.restore()


def _same_numbers(reference: Record, full: Record, eps: float) -> Record:
    """`reference`, if it drew the same random numbers as `full`: only then are their losses close."""
    rows = compare(full, full, reference=reference)
    distance = max((row.full_error or 0.0 for row in rows if row.kind in ("loss", "output")), default=0.0)
    if distance > math.sqrt(eps or torch.finfo(torch.float32).eps):
        raise NoReferenceError("the step draws other random numbers in float64")
    return reference


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _computes_in_float64(run: Record) -> bool:
    """Whether no gradient, parameter or loss is below float64."""
    kinds = ("loss", "gradient", "parameter")
    values = [entry.value for entry in run.entries.values() if entry.kind in kinds and entry.value is not None]
    return all(value.dtype in (torch.float64, torch.complex128) for value in values)


def _judged(step, accumulated, full, eager, reference, notes, splits: list[Split]) -> VerifyReport:
    comparison = Comparison(accumulated, full, None if eager.drew else eager, reference)
    if reference is not None:
        floor = of_precision(FLOORS, eager.eps)
        rows, passed = comparison.by_reference(floor)
        allowed = f"an error to float64 of at most twice the full batch's own, or {2 * floor:.0e}"
    else:
        tolerance = of_precision(TOLERANCES, eager.eps) if notes else EXACT
        rows, passed = comparison.directly(tolerance)
        allowed = f"a difference of at most {tolerance:.0e}"
    batch = "; ".join(dict.fromkeys(f"{s.batch} samples as {len(s)} of at most {s.rows}" for s in splits))
    notes = (*notes, *comparison.notes)
    return VerifyReport(step.session.name, tuple(rows), passed, allowed, batch or "nothing was split", notes)
