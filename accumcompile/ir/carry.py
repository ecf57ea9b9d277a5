"""Loop carries: how the micro-batches' parts of a value are reduced, and in which dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


def merge_moments(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Merge two packed (count, mean, M2) triples, stacked along dim 0.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
    (1979).
    """
    (count_a, mean_a, m2_a), (count_b, mean_b, m2_b) = a.unbind(0), b.unbind(0)
    count = count_a + count_b
    delta = mean_b - mean_a
    mean = mean_a + delta * (count_b / count)
    m2 = m2_a + m2_b + delta * delta * (count_a * count_b / count)
    return torch.cat([count[None], mean[None], m2[None]])


REDUCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
    "moments": merge_moments,
    "any": lambda a, b: a,
}
ROUND = ("sum", "moments")  # the others select elements of their operands, without rounding

# Dtypes too narrow to accumulate in, and the narrowest dtype that suffices.
WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}


@dataclass(frozen=True)
class Carry:
    """How a value is reduced over micro-batches.

    With a single micro-batch, its part is the value, and nothing is accumulated.
    """

    op: str  # a key of REDUCTIONS
    dtype: torch.dtype  # the accumulator's
    result: torch.dtype  # the value's: the accumulator is cast to it once, after the last micro-batch
    source: str = ""  # the value's name in the captured graph

    @classmethod
    def of(cls, op: str, result: torch.dtype, wide: torch.dtype | None = None, source: str = "") -> Carry:
        """The carry of a value; ``wide`` is the option ``accumulator_dtype``, which applies to half-precision sums."""
        if op not in ROUND or result not in WIDER:
            return cls(op, result, result, source)
        return cls(op, torch.promote_types(WIDER[result], wide or torch.float32), result, source)

    @property
    def alone(self) -> Carry:
        """The carry of a loop over one micro-batch."""
        return replace(self, dtype=self.result)

    def first(self, part: torch.Tensor) -> torch.Tensor:
        """The accumulator after the first micro-batch."""
        return part.to(self.dtype)

    def add(self, so_far: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """The accumulator after one more micro-batch."""
        return REDUCTIONS[self.op](so_far, part.to(self.dtype))
