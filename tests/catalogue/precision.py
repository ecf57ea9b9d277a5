"""How far a row in half precision is from float64: the accumulated step, and beside it the full batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from accumcompile.testing import wide
from accumcompile.verify.float64 import in_float64
from accumcompile.verify.snapshot import Snapshot

from .compare import UPDATES, History, observed
from .row import Case, Row

Errors = dict[str, float]


class NotInHalfError(Exception):
    """Plain PyTorch does not run a row in half precision, or its numbers are other ones in float64."""


def run_twice(case: Case, step: Callable[..., Any], size: int) -> tuple[History, History]:
    """Two updates of the case in float64, and of `step`, which is the case's own or a form of it.

    Both run from the state that the updates before have left: a parameter that is rounded is another parameter.
    """
    history: History = []
    exact: History = []
    for update in range(UPDATES):
        call = case.arguments(size, update)
        with Snapshot.of(case.step, *call) as snapshot, in_float64(snapshot):
            exact.append(observed(case, case.step, call))
        history.append(observed(case, step, call))
    return exact, history


def full_batch(row: Row, dtype: torch.dtype, size: int) -> tuple[History, Errors]:
    """The full batch run eagerly in half precision, and how far it is from float64.

    Raises:
        NotInHalfError: plain PyTorch does not run it, or the row draws random numbers.
    """
    before = torch.get_rng_state()
    try:
        case = row.build(dtype=dtype)
        exact, history = run_twice(case, case.step, size)
    except (RuntimeError, NotImplementedError) as error:
        raise NotInHalfError(str(error)) from error
    if not torch.equal(before, torch.get_rng_state()):
        raise NotInHalfError("it draws, and float64 draws other numbers")
    return history, errors(exact, history)


def errors(exact: History, history: History) -> Errors:
    """For each group of values that are measured together: the norm of the error over that of the group.

    The larger one of the two updates: what cancels in one of them has no digits there, in whatever order it is summed.
    """
    found: Errors = {}
    for expected, actual in zip(exact, history, strict=True):
        for name, error in _errors_of_update(expected, actual).items():
            found[name] = max(found.get(name, 0.0), error)
    return found


def _errors_of_update(expected: list, actual: list) -> Errors:
    off: dict[str, float] = {}
    size: dict[str, float] = {}
    for a, b in zip(expected, actual, strict=True):
        assert a.name == b.name and (a.tensor is None) == (b.tensor is None), f"{a.name} is on one side only"
        if a.tensor is not None:
            x, y = wide(a.tensor), wide(b.tensor)
            same = (x == y) | (x.isnan() & y.isnan())
            off[a.scale] = off.get(a.scale, 0.0) + torch.where(same, 0.0, x - y).square().sum().item()
            size[a.scale] = size.get(a.scale, 0.0) + x[x.isfinite()].square().sum().item()
    return {name: _ratio(off[name], size[name]) for name in off}


def _ratio(off: float, size: float) -> float:
    if off == 0.0:
        return 0.0
    return math.sqrt(off / size) if size > 0.0 and math.isfinite(off) else math.inf


def above(found: Errors, own: Errors, times: float, floor: float) -> dict[str, tuple[float, float]]:
    """The errors that are more than some times the full batch's own, each with that one."""
    limit = {name: times * max(own[name], floor) for name in found}
    return {name: (found[name], own[name]) for name in found if not found[name] <= limit[name]}


def dtypes(history: History) -> list[Any]:
    """The dtype of every value."""
    return [value.tensor.dtype for update in history for value in update if value.tensor is not None]


def larger(a: Errors, b: Errors) -> Errors:
    """Of each two errors the larger one."""
    return {name: max(a[name], b[name]) for name in a}
