"""At each call of a graph: micro-batches, or the graph as it is, where that takes no more memory.

Where little can be split, a loop's sums and what is kept between loops cost more than they save; so do sums of large
gradients beside a small batch. Both estimates are functions of the sizes, and so is the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import fx

from ..diagnostics import errors
from ..ir.loop import Split
from ..printing.text import human
from ..report.entries import GraphEntry
from ..report.kept_outputs import LEAST, at_most
from ..report.plan import Plan
from ..report.unsplit_graph import TRAINING
from ..report.whole_graph import values_of
from ..rules.table import SEEDS
from ..session.journal import Run
from ..session.session import Session

SMALL = 64 << 10  # bytes below which it does not matter: a loop that was asked for is run


@dataclass(eq=False)
class Pieces:
    """The facts of the pieces that one graph was compiled to. ``draws``: they draw as compiled code alone does."""

    plans: list[Plan] = field(default_factory=list)
    draws: bool = False

    def add(self, plan: Plan, gm: fx.GraphModule) -> None:
        """One more piece."""
        self.plans.append(plan)
        self.draws |= any(node.target in SEEDS for node in gm.graph.nodes)

    @property
    def training(self) -> list[Plan]:
        """Those that hold a backward."""
        return [plan for plan in self.plans if plan.road in TRAINING]


def unharmed(
    gm: fx.GraphModule, split: Callable[..., Any], plain: Callable[..., Any], pieces: Pieces, session: Session
) -> Callable[..., Any]:
    """``split``, or ``plain`` at calls where that takes less; ``split`` alone if they would draw other numbers."""
    if pieces.draws or not pieces.training:
        return split
    return _Choosing(gm, split, plain, pieces.training, session).run


@dataclass(eq=False)
class _Choosing:
    gm: fx.GraphModule
    split: Callable[..., Any]
    plain: Callable[..., Any]
    plans: Sequence[Plan]
    session: Session
    known: dict[Any, Plan | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sizes = list(_sizes(self.gm))
        self.values = values_of(self.gm.graph.nodes)
        del self.gm

    def run(self, *args: Any) -> Any:
        """One call of the graph."""
        sizes = {s: int(args[i] if dim is None else args[i].shape[dim]) for s, i, dim in self.sizes}
        plan = self._plain_plan(sizes)
        if plan is None:
            return self.split(*args)
        batch = sizes[plan.batch]
        self.session.journal.ran(plan, sizes, Split(batch, batch))
        return self.plain(*args)

    def _plain_plan(self, sizes: dict[sympy.Symbol, int]) -> Plan | None:
        """The facts of the graph as it is, if it takes less so."""
        options = self.session.options
        key = (*sizes.values(), options.steps, options.micro_batch_size)
        if key not in self.known:
            harmful = [plan for plan in self.plans if self._harms(plan, sizes)]
            self.known[key] = self._as_it_is(harmful[0]) if harmful else None
        return self.known[key]

    def _harms(self, plan: Plan, sizes: dict[sympy.Symbol, int]) -> bool:
        if plan.batch not in sizes:
            return False
        batch = sizes[plan.batch]
        run = at_most(Run(plan, sizes, self.session.split(batch, plan.granule)))
        graph = GraphEntry.of(run, calls=1)
        split = any(loop.micro_batches > 1 for loop in graph.loops)
        if len(run.split) == 1 or graph.estimated_bytes <= graph.full_batch_bytes:
            return False
        if split and graph.full_batch_bytes < SMALL:
            return False
        self._say(plan, graph)
        return True

    def _say(self, plan: Plan, graph: GraphEntry) -> None:
        peak, full = human(graph.estimated_bytes), human(graph.full_batch_bytes)
        if graph.full_batch_bytes >= LEAST and not plan.whole:
            errors.warn("AC039", self.session, peak=peak, full=full)
        elif not any("in micro-batches" in note for note in self.session.notes):
            what = f"in micro-batches it would take {peak}, and as it is {full}"
            self.session.note(f"a batch of {graph.batch} ran as it is: {what}")

    def _as_it_is(self, plan: Plan) -> Plan:
        return replace(
            plan, road="plain", loops=(), barriers=(), kept=(), whole=self.values, program=plan.unsplit, granule=1
        )


def _sizes(gm: fx.GraphModule) -> Iterator[tuple[sympy.Symbol, int, int | None]]:
    """Where each symbol is read: the number of an argument, and a dim of it."""
    seen: set[sympy.Symbol] = set()
    for i, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        value = node.meta.get("example_value")
        shape: Sequence[Any] = value.shape if isinstance(value, torch.Tensor) else ()
        for dim, size in ((None, value), *enumerate(shape)):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and size.node.expr not in seen:
                seen.add(size.node.expr)
                yield size.node.expr, i, dim
