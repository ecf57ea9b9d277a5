"""What `explain()` says, made from a journal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from accumcompile.printing.text import plain
from accumcompile.report.choice_text import choice_lines
from accumcompile.report.entries import Entries, GraphEntry, ValueEntry
from accumcompile.report.plan import ValueFact
from accumcompile.report.report_text import render_report
from accumcompile.session.check_cost import CheckCost
from accumcompile.session.journal import Run
from accumcompile.session.session import Session


@dataclasses.dataclass(frozen=True)
class Report(Entries):
    """How one call of a step was split. `str()` of it is for people, `to_json()` for programs."""

    @classmethod
    def of(
        cls,
        runs: Iterable[Run],
        *,
        name: str = "step",
        steps: int | None = None,
        micro_batch_size: int | None = None,
        notes: Iterable[str] = (),
        chosen: Iterable[str] = (),
        whole: Iterable[ValueFact] = (),
    ) -> Report:
        """Runs of one graph at the same sizes share an entry; graphs without the batch have none."""
        calls: dict[tuple, list[Run]] = {}
        for run in (r for r in runs if r.plan.batch in r.sizes):
            calls.setdefault((id(run.plan), run.split, tuple(run.sizes.items())), []).append(run)
        graphs = tuple(GraphEntry.of(same[0], len(same)) for same in calls.values())
        ran_whole = tuple(ValueEntry.of(fact, {}) for fact in whole)
        return cls(name, steps, micro_batch_size, graphs, tuple(notes), tuple(chosen), ran_whole)

    def to_json(self) -> str:
        """Every field of the report, nested as its classes are, and the totals in bytes."""
        names = ("gathered_bytes", "estimated_bytes", "full_batch_bytes")
        totals = {name: getattr(self, name) for name in names}
        return json.dumps(dataclasses.asdict(self) | totals, indent=2)

    def __rich__(self):
        return render_report(self)

    def __str__(self) -> str:
        return plain(self.__rich__())


def report_of(session: Session, runs: Iterable[Run]) -> Report:
    """The report of the runs of one call of a step."""
    steps = session.options.steps
    return Report.of(
        runs,
        name=session.name,
        steps=steps if isinstance(steps, int) else None,
        micro_batch_size=session.options.micro_batch_size,
        notes=[*session.notes, *session.part(CheckCost).said()],
        chosen=choice_lines(session.choice),
        whole=session.journal.whole,
    )
