"""Comparing two records of a step, and judging the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from accumcompile.verify.differences import largest, rel_diff, wide
from accumcompile.verify.record import Record

EXACT = 1e-10  # allowed in float64

# (largest eps that the row covers, value), by the least exact dtype. The floor counts as the full batch's own error
# where that happens to be smaller: a single number, such as a loss, may be exact by luck.
FLOORS = ((1e-6, 5e-7), (2e-3, 2.5e-4), (1.0, 2e-3))  # float32, float16, bfloat16
TOLERANCES = ((1e-6, 1e-4), (2e-3, 5e-3), (1.0, 3e-2))  # the allowed difference without a reference

# An element of a gradient is "zero up to rounding" if two runs differ there by at most the second of these, relative
# to the largest element of all the model's gradients, and either differ by more than the first, relative to the
# element itself, or the element is within a few roundings of that largest one: such numbers may agree by chance.
ROUNDING_EXACT, ROUNDING = (1e-8, EXACT), (1e-1, 1e-2)
FEW_ROUNDINGS = 10


def of_precision(table: tuple[tuple[float, float], ...], eps: float) -> float:
    """The value of the first row that covers `eps`; float32's if it is unknown (0)."""
    return next(value for limit, value in table if eps <= limit)


@dataclass(frozen=True)
class Row:
    """One value: how far it is from the full batch's."""

    name: str
    kind: str
    group: str
    scale: str
    rel_diff: float  # to the full batch under the same lowering
    eager: float | None  # to the full batch, eagerly; None where random numbers differ
    error: float | None = None  # to the full batch in float64
    full_error: float | None = None  # the full batch's own error
    passed: bool = True


def compare(
    full: Record,
    accumulated: Record,
    eager: Record | None = None,
    reference: Record | None = None,
    masks: dict[str, torch.Tensor] | None = None,
) -> list[Row]:
    """A row for each value of either record. `masks` say which elements of a value to leave out."""
    scales, exact_scales = _scales_of(full), _scales_of(reference) if reference else {}
    rows = []
    for name, entry in {**accumulated.entries, **full.entries}.items():
        key, mask = (entry.kind, entry.scale), (masks or {}).get(name)

        def apart(a: Record | None, b: Record, scale: dict, name=name, key=key, mask=mask) -> float | None:
            if a is None:
                return None
            if name not in a.entries or name not in b.entries:
                return math.inf
            x, y = a.entries[name].value, b.entries[name].value
            if mask is not None and x is not None and y is not None:
                x, y = (torch.where(mask, 0.0, wide(value)) for value in (x, y))
            return rel_diff(x, y, scale.get(key, 0.0))

        rows.append(
            Row(
                name,
                entry.kind,
                entry.group,
                entry.scale,
                rel_diff=apart(full, accumulated, scales) or 0.0,
                eager=apart(eager, accumulated, scales),
                error=apart(reference, accumulated, exact_scales),
                full_error=apart(reference, full, exact_scales),
            )
        )
    return rows


def _scales_of(record: Record) -> dict[tuple[str, str], float]:
    """The largest magnitude among the values of each kind and scale."""
    members: dict[tuple[str, str], list] = {}
    for entry in record.entries.values():
        members.setdefault((entry.kind, entry.scale), []).append(entry.value)
    return {key: largest(values) for key, values in members.items()}


class Comparison:
    """The accumulated step against the full batch, its eager run and its float64 run."""

    def __init__(self, accumulated: Record, full: Record, eager: Record | None, reference: Record | None) -> None:
        self.accumulated, self.full, self.eager, self.reference = accumulated, full, eager, reference
        self.notes: list[str] = []
        self.rounding = ROUNDING

    def directly(self, tolerance: float) -> tuple[list[Row], bool]:
        """Passes if no difference exceeds `tolerance`; if that is EXACT, differences to eager count too."""

        def verdict(rows: list[Row]) -> list[bool]:
            return [max(row.rel_diff, (row.eager or 0.0) * (tolerance == EXACT)) <= tolerance for row in rows]

        self.rounding = ROUNDING_EXACT if tolerance == EXACT else ROUNDING
        return self.decide(verdict)

    def by_reference(self, floor: float) -> tuple[list[Row], bool]:
        """Passes if each error is at most twice the full batch's own at its scale, or twice the floor."""

        def verdict(rows: list[Row]) -> list[bool]:
            own: dict[tuple[str, str], float] = {}
            for row in rows:
                key = (row.kind, row.scale)
                own[key] = max(own.get(key, floor), row.full_error or 0.0)
            return [row.rel_diff == 0.0 or (row.error or 0.0) <= 2 * own[row.kind, row.scale] for row in rows]

        return self.decide(verdict)

    def decide(self, verdict) -> tuple[list[Row], bool]:
        """Judge each row; a parameter that fails is judged again without its undetermined elements."""
        rows = self.rows()
        passed = verdict(rows)
        failed = [row.name for row, ok in zip(rows, passed, strict=True) if not ok and row.kind == "parameter"]
        masks = {name: mask for name in failed if (mask := self.undetermined(name)) is not None and mask.any()}
        if masks:
            rows = self.rows(masks)
            passed = verdict(rows)
            self.notes += [_left_out(name, mask) for name, mask in masks.items()]
        return [replace(row, passed=ok) for row, ok in zip(rows, passed, strict=True)], all(passed)

    def rows(self, masks: dict[str, torch.Tensor] | None = None) -> list[Row]:
        """A row for each value of the runs, without the elements that `masks` marks."""
        return compare(self.full, self.accumulated, self.eager, self.reference, masks)

    def undetermined(self, name: str) -> torch.Tensor | None:
        """Where a parameter's gradient is zero up to rounding, which an optimizer such as Adam amplifies."""
        of_itself, of_largest = self.rounding
        scale = _scales_of(self.full).get(("gradient", self.full.entries[name].scale), 0.0)
        runs = [r for r in (self.full, self.accumulated, self.eager, self.reference) if r is not None]
        histories = [run.stepped.get(name) for run in runs]
        mask = None
        for gradients in zip(*(history or [] for history in histories), strict=False):
            if any(gradient is None for gradient in gradients):
                continue
            tiny = FEW_ROUNDINGS * torch.finfo(gradients[0].dtype).eps * scale
            first, *others = map(wide, gradients)
            for other in others:
                difference = (other - first).abs()
                unlike = (difference > of_itself * first.abs()) | (first.abs() <= tiny)
                apart = unlike & (difference <= of_largest * scale)
                mask = apart if mask is None else mask | apart
        return mask


def _left_out(name: str, mask: torch.Tensor) -> str:
    count = f"{int(mask.sum())} of {mask.numel()} elements"
    return f"{name}: {count} left out: their gradient is zero up to rounding, which the optimizer amplifies"


@dataclass(frozen=True)
class Verification:
    """The result of a comparison."""

    name: str
    rows: tuple[Row, ...]
    passed: bool
    allowed: str  # what "passed" means here, in words
    split: str
    notes: tuple[str, ...] = ()

    @property
    def max_rel_diff(self) -> float:
        """The largest difference between the accumulated step and the full batch."""
        return max((row.rel_diff for row in self.rows), default=0.0)
