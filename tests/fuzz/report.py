"""What a search found, for people."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from .check import Outcome

MOST_REFUSED, LEAST_LOWER = 0.10, 0.70  # the promises that a search holds the compiler to
SHOWN = 8  # seeds that are named of each kind of refusal


class Summary:
    """The numbers of a search; steps that fail by themselves, or hang on rounding, are no part of them."""

    def __init__(self, outcomes: Mapping[int, Outcome]):
        self.steps = {number: o for number, o in outcomes.items() if not o.skipped}
        self.skipped = len(outcomes) - len(self.steps)
        self.refused: dict[str, list[int]] = {}  # the seeds of each code
        for number, outcome in self.steps.items():
            if outcome.refused:
                self.refused.setdefault(outcome.refused, []).append(number)
        self.failures = {number: o for number, o in self.steps.items() if o.failure}
        self.measured = [o for o in self.steps.values() if o.peaks and not o.failure and not o.refused]

    @property
    def ratios(self) -> list[float]:
        """The accumulated step's peak for one of the full batch's."""
        return [o.peaks[0] / max(o.peaks[1], 1) for o in self.measured if o.peaks]

    @property
    def refused_share(self) -> float:
        """Of all steps."""
        return sum(map(len, self.refused.values())) / max(len(self.steps), 1)

    @property
    def lower_share(self) -> float:
        """Of the steps that ran in more than one micro-batch: those with a lower peak."""
        return sum(o.lower for o in self.measured) / max(len(self.measured), 1)

    @property
    def kept(self) -> bool:
        """Whether the compiler kept its promises."""
        return not self.failures and self.refused_share <= MOST_REFUSED and self.lower_share >= LEAST_LOWER

    def kinds(self) -> list[tuple[str, int, float]]:
        """Each op, how many measured steps have it, and the share of those whose peak is not lower, worst first."""
        having = Counter(kind for o in self.measured for kind in o.program.kinds)
        bad = Counter(kind for o in self.measured if not o.lower for kind in o.program.kinds)
        return sorted(((k, n, bad[k] / n) for k, n in having.items()), key=lambda row: -row[2])


def show(summary: Summary, kinds: bool = False) -> None:
    """The table, then every failure with its source."""
    console = Console()
    console.print(_table(summary))
    if kinds:
        console.print(_kinds(summary))
    for number, outcome in summary.failures.items():
        for line in _failure(number, outcome):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(summary: Summary) -> Table:
    table = Table("steps", str(len(summary.steps)))
    table.add_row("left out: the full batch fails, or its result hangs on rounding", str(summary.skipped))
    table.add_row("failures", str(len(summary.failures)))
    table.add_row(f"refused (at most {MOST_REFUSED:.0%})", f"{summary.refused_share:.1%}")
    for code, seeds in sorted(summary.refused.items()):
        table.add_row(f"  {code}, seeds {', '.join(map(str, seeds[:SHOWN]))}", str(len(seeds)))
    table.add_row("in several micro-batches", str(len(summary.measured)))
    table.add_row(f"  peak below the full batch's (at least {LEAST_LOWER:.0%})", f"{summary.lower_share:.1%}")
    if len(summary.ratios) > 1:
        low, middle, high = statistics.quantiles(summary.ratios, n=4)
        table.add_row("  peak, full batch = 1: quartiles", f"{low:.2f}, {middle:.2f}, {high:.2f}")
    return table


def _kinds(summary: Summary) -> Table:
    table = Table("op", "steps", "peak not lower")
    for kind, count, share in summary.kinds():
        table.add_row(kind, str(count), f"{share:.0%}")
    return table


def _failure(number: int, outcome: Outcome) -> Iterable[str]:
    runs = ", ".join(f"B = {size} in {steps}" for size, steps in outcome.program.runs)
    yield f"\n--- seed {number}: {runs}"
    yield outcome.failure
    yield outcome.program.source()
    yield f"again: python tests/fuzz 1 --seed {number} --lowering {outcome.lowering}"
