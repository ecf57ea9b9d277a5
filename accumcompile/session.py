"""A session: what one step was asked for, and what it remembers from call to call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .capture.batch import Candidates
from .capture.safety import Calls
from .dump import Dumper
from .journal import Journal, Run
from .lowering.check_cost import CheckCost
from .lowering.protocol import Lowering
from .lowering.registry import LOWERINGS
from .options import Options
from .report import Report
from .where import Frame


@dataclass(eq=False)
class Session:
    """One for each decorated step, and for each ``torch.compile(..., options=options)`` by name.

    options: read at run time, so that a new ``steps`` compiles nothing anew in Dynamo.
    name: the step's, as messages call it.
    frame: where the step is defined.
    journal: what ran, as long as somebody records it.
    candidates: which arguments have been as large as the batch.
    calls: what the safety net has learnt from the calls so far.
    check_cost: of the checks of compiled code so far.
    notes: what explain() adds about the capture.
    warned: warnings that were given, each once: its code and line.
    """

    options: Options
    name: str = "step"
    frame: Frame | None = None
    journal: Journal = field(default_factory=Journal)
    candidates: Candidates = field(default_factory=Candidates)
    calls: Calls = field(default_factory=Calls)
    check_cost: CheckCost = field(default_factory=CheckCost)
    notes: list[str] = field(default_factory=list)
    warned: set[tuple[str, str | None]] = field(default_factory=set)
    _dumpers: dict[str | None, Dumper] = field(default_factory=dict)  # a folder's graphs are numbered on
    _lowerings: dict[str, Lowering] = field(default_factory=dict)

    def change(self, **options: Any) -> None:
        """Replace options between calls; they are validated again."""
        self.options = dataclasses.replace(self.options, **options)

    def rows(self, batch: int, granule: int) -> int:
        """The samples of a micro-batch, as the options are now."""
        return self.options.rows(batch, granule)

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""
        return self.options.strict

    @property
    def dumper(self) -> Dumper:
        """Writes to the folder that is asked for now."""
        folder = None if self.options.dump is None else os.fsdecode(self.options.dump)
        if folder not in self._dumpers:
            self._dumpers.setdefault(folder, Dumper(folder))  # another thread may have been first
        return self._dumpers[folder]

    @property
    def lowering(self) -> Lowering:
        """That which is asked for now."""
        name = self.options.lowering
        if name not in self._lowerings:
            self._lowerings.setdefault(name, LOWERINGS[name](self))
        return self._lowerings[name]

    def report(self, runs: Iterable[Run]) -> Report:
        """Of the runs of one call."""
        steps = self.options.steps
        return Report.of(
            runs,
            name=self.name,
            steps=steps if isinstance(steps, int) else None,
            micro_batch_size=self.options.micro_batch_size,
            notes=[*self.notes, *self.check_cost.said()],
        )

    def note(self, text: str) -> None:
        """Add a line for explain(), once."""
        if text not in self.notes:
            self.notes.append(text)
