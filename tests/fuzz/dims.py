"""The type of a value: every dimension as ``coefficient * B ** power``, found by running at two batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

PROBES = (12, 60)  # batch sizes that 2, 3 and 4 divide; no dimension without the batch has a ratio of 5 between them


@dataclass(frozen=True)
class Dim:
    """A dimension's size: a number of rows for each sample, or a plain number (``power`` 0)."""

    coefficient: Fraction
    power: int = 0

    @property
    def batch(self) -> bool:
        """Whether the size grows with the batch."""
        return self.power > 0

    def at(self, batch: int) -> int:
        """The size at a batch of this many samples."""
        return int(self.coefficient * batch**self.power)

    def divisible(self, by: int, granule: int) -> bool:
        """Whether ``by`` divides the size of every batch that is a multiple of ``granule``."""
        return (self.coefficient * granule**self.power) % by == 0

    def __str__(self) -> str:
        """As the step writes it."""
        words = ["B"] * self.power
        if self.coefficient.numerator != 1 or not words:
            words = [str(self.coefficient.numerator), *words]
        text = " * ".join(words)
        return text if self.coefficient.denominator == 1 else f"{text} // {self.coefficient.denominator}"


def dims_of(shapes: Sequence[Sequence[int]]) -> tuple[Dim, ...] | None:
    """The dims behind the shapes that a value has at each of ``PROBES``; None where a size follows no such law."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    found = tuple(_dim(*sizes) for sizes in zip(*shapes, strict=True))
    return None if None in found else found  # type: ignore[return-value]


def _dim(small: int, large: int) -> Dim | None:
    if small == large:
        return Dim(Fraction(small))
    power = next((p for p in (1, 2) if small * PROBES[1] ** p == large * PROBES[0] ** p), None)
    return None if power is None else Dim(Fraction(small, PROBES[0] ** power), power)
