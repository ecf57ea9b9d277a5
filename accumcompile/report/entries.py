"""The entries of a report: the graphs of a step that ran, their loops and barriers, and what these hold and cost."""

from __future__ import annotations

from dataclasses import dataclass

from accumcompile.ir.binding import Binding, is_known, value
from accumcompile.planning.memory import all_known, peak
from accumcompile.report.plan import BarrierFact, LoopFact, ValueFact
from accumcompile.session.journal import Run


@dataclass(frozen=True)
class ValueEntry:
    """A value with its sizes in this call.

    `bytes` are the full batch's. A size of -1 is data-dependent; `bytes` is then 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    placement: str
    bytes: int
    where: str
    code: str
    sliced_from: str = ""  # its placement outside the loop that slices it, if different
    accumulated_in: str = ""  # a loop's accumulator dtype, if different; `bytes` are in this dtype

    @property
    def known(self) -> bool:
        """Whether the value's size was known before it was made."""
        return -1 not in self.shape

    @classmethod
    def of(cls, fact: ValueFact, sizes: Binding) -> ValueEntry:
        """A fact of the plan, with the sizes of one call."""
        numbers = (value(s, sizes) for s in fact.shape)
        shape = tuple(-1 if n is None else n for n in numbers)
        dtypes = [str(d).removeprefix("torch.") if d else "" for d in (fact.dtype, fact.accumulated_in)]
        size = fact.bytes(sizes)  # 0 if data-dependent
        return cls(
            fact.name,
            shape,
            dtypes[0] or "int",
            fact.placement,
            size,
            fact.where,
            fact.code,
            fact.sliced_from,
            dtypes[1],
        )


@dataclass(frozen=True)
class LoopEntry:
    """One loop of a graph, in the vocabulary of scan."""

    stage: int
    micro_batches: int  # as run: 1 for a loop so small that it takes the batch at once
    micro_batch_size: int  # of all but perhaps the last; -1 if data decides it
    nodes: int
    estimated_bytes: int  # the peak of one micro-batch's values
    full_batch_bytes: int  # the same if the loop took the batch at once
    consts: tuple[ValueEntry, ...]
    xs: tuple[ValueEntry, ...]
    carry: tuple[ValueEntry, ...]
    ys: tuple[ValueEntry, ...]
    over: str = ""  # the derived rows that it runs over, if not the batch
    rows: int = 0  # how many it runs over: the batch's samples, or derived rows; -1 if data decides

    @classmethod
    def of(cls, fact: LoopFact, run: Run) -> LoopEntry:
        """A loop of the plan as one call ran it."""
        held = {
            kind: tuple(ValueEntry.of(value, run.sizes) for value in getattr(fact, kind))
            for kind in ("consts", "xs", "carry", "ys")
        }
        known = fact.split_of(run.split, run.sizes)
        split = known or (run.split.at_once() if fact.at_once else run.split)
        if len(split) == 1:
            held["carry"] = tuple(ValueEntry.of(value.alone(), run.sizes) for value in fact.carry)
        share = (split.rows, split.batch)
        need, full = peak(fact.body, run.sizes, share), peak(fact.body, run.sizes)
        size, rows = (split.rows, split.batch) if known else (-1, -1)
        return cls(fact.stage, len(split), size, fact.nodes, need, full, **held, over=fact.over, rows=rows)


@dataclass(frozen=True)
class BarrierEntry:
    """A reduce or gather whose result a later loop needs."""

    kind: str  # "reduce" or "gather"
    where: str  # "file:line"
    code: str
    bytes: int
    name: str
    stage: int
    cause: str
    path: tuple[str, ...]
    known: bool = True  # False if its size is data-dependent; `bytes` is then 0
    over: str = ""  # the derived rows of the loop

    @classmethod
    def of(cls, fact: BarrierFact, sizes: Binding) -> BarrierEntry:
        """A barrier of the plan, with the sizes of one call."""
        value = fact.value
        size, has_size = value.bytes(sizes), is_known(value.shape, sizes)
        said = fact.stage, fact.cause, fact.path, has_size, fact.over
        return cls(fact.kind, value.where, value.code, size, value.name, *said)


@dataclass(frozen=True)
class GraphEntry:
    """One captured graph of the step, and how often it ran with this batch size."""

    road: str  # "fused", "forward", "backward" or "inference"
    batch: int
    micro_batches: tuple[int, ...]  # the samples of each
    granule: int
    calls: int
    loops: tuple[LoopEntry, ...]
    barriers: tuple[BarrierEntry, ...]
    kept: tuple[ValueEntry, ...]
    whole: tuple[ValueEntry, ...]
    estimated_bytes: int
    full_batch_bytes: int
    known: bool = True  # False if some sizes are data-dependent; both estimates leave them out

    @classmethod
    def of(cls, run: Run, calls: int) -> GraphEntry:
        """One run of a graph, which stands for `calls` equal ones."""
        plan = run.plan
        loops = tuple(LoopEntry.of(loop, run) for loop in plan.loops)
        share = (run.split.rows, run.split.batch)
        return cls(
            road=plan.road,
            batch=run.split.batch,
            micro_batches=tuple(rows for _, rows in run.split),
            granule=plan.granule,
            calls=calls,
            loops=loops,
            barriers=tuple(BarrierEntry.of(barrier, run.sizes) for barrier in plan.barriers),
            kept=tuple(ValueEntry.of(value, run.sizes) for value in plan.kept),
            whole=tuple(ValueEntry.of(value, run.sizes) for value in plan.whole),
            estimated_bytes=peak(plan.program, run.sizes, share, [loop.estimated_bytes for loop in loops]),
            full_batch_bytes=peak(plan.unsplit, run.sizes),
            known=all_known((*plan.program, *plan.unsplit), run.sizes),
        )


@dataclass(frozen=True)
class Entries:
    """How one call of a step was split: one entry for each of its graphs that ran, in order."""

    name: str
    steps: int | None  # as requested; None if `asked_size` was
    asked_size: int | None
    graphs: tuple[GraphEntry, ...]
    step_notes: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()  # which inputs were split, and why
    ran_whole: tuple[ValueEntry, ...] = ()  # in graphs that are not split, or in no graph

    @property
    def loops(self) -> tuple[LoopEntry, ...]:
        """The loops of all graphs, in the order in which they run."""
        return tuple(loop for graph in self.graphs for loop in graph.loops)

    @property
    def barriers(self) -> tuple[BarrierEntry, ...]:
        """The barriers of all graphs, graph by graph."""
        return tuple(barrier for graph in self.graphs for barrier in graph.barriers)

    @property
    def kept(self) -> tuple[ValueEntry, ...]:
        """Outputs of the graphs that are held for the full batch."""
        return tuple(value for graph in self.graphs for value in graph.kept)

    @property
    def whole(self) -> tuple[ValueEntry, ...]:
        """What is computed on the full batch, because it cannot be split."""
        return tuple(value for graph in self.graphs for value in graph.whole) + self.ran_whole

    @property
    def estimated_bytes(self) -> int:
        """The estimated peak of what the step makes: kept values, sums, a micro-batch of the largest loop."""
        return max((graph.estimated_bytes for graph in self.graphs), default=0)

    @property
    def full_batch_bytes(self) -> int:
        """The same estimate for the full batch at once."""
        return max((graph.full_batch_bytes for graph in self.graphs), default=0)

    @property
    def known(self) -> bool:
        """Whether all sizes were known; the estimates leave out data-dependent ones."""
        return all(graph.known for graph in self.graphs)

    @property
    def notes(self) -> tuple[str, ...]:
        """Further notes, without duplicates."""
        return tuple(dict.fromkeys(self.step_notes))

    @property
    def gathered_bytes(self) -> int:
        """The bytes of the full batch's values that gathers assemble."""
        return sum(barrier.bytes for barrier in self.barriers if barrier.kind == "gather")
