"""A journal of the graphs that ran: with it `explain` covers a step across graph breaks.

Each run of a compiled graph reports itself here. That costs next to nothing unless somebody is recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from accumcompile.ir.binding import Binding
from accumcompile.ir.loop import Split


@dataclass(frozen=True)
class Run:
    """One run of one graph: its plan, the sizes its symbols had, and how the batch was cut."""

    plan: Any  # the graph's facts
    sizes: Binding
    split: Split


@dataclass
class Journal:
    """Records runs inside `recording()`, and only there.

    whole: what ran on the full batch in the last recording, beside the graphs that are split: facts of values.
    most_rows: the number of samples in the largest micro-batch that ever ran.
    """

    runs: list[Run] | None = field(default=None, repr=False)
    whole: list[Any] = field(default_factory=list, repr=False)
    most_rows: int = 0

    def ran(self, plan: Any, sizes: Binding, split: Split) -> None:
        """Record that a graph compiled to `plan` runs now; backward passes call this from autograd's threads."""
        self.most_rows = max(self.most_rows, min(split.rows, split.batch))
        if self.runs is not None:
            self.runs.append(Run(plan, dict(sizes), split))

    @property
    def is_recording(self) -> bool:
        """Whether somebody reads what is recorded."""
        return self.runs is not None

    def ran_whole(self, values: Iterable[Any]) -> None:
        """Record values that were computed on the full batch, outside the graphs that are split."""
        if self.runs is not None:
            self.whole += [value for value in values if value not in self.whole]

    @contextmanager
    def recording(self) -> Iterator[list[Run]]:
        """Yield the list that runs are added to until the end of the block."""
        outer, self.runs, self.whole = self.runs, [], []
        try:
            yield self.runs
        finally:
            if outer is not None:
                outer.extend(self.runs)
            self.runs = outer
