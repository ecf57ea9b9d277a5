"""The text of a report, as rich renderables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from accumcompile.printing.text import counted, human, indented
from accumcompile.report.entries import BarrierEntry, Entries, GraphEntry, LoopEntry, ValueEntry

SHOWN = 4  # how many values of a row are named, the largest ones

ROADS = {
    "fused": "forward and backward of a micro-batch together",
    "forward": "keeps only its outputs; its backward computes each micro-batch again",
    "backward": "computes each micro-batch again and accumulates its gradients",
    "plain": "as it is, on the full batch: micro-batches would take more memory",
    "inference": "a graph without a backward of its own",
}
KEPT_FIX = (
    "drop the name before backward() (del, or take what you need in the same line), and it is never made; "
    "if the step returns it, return less of it"
)
UNKNOWN = "what has a size that data decides"


def render_report(report: Entries) -> RenderableType:
    """The whole report, its headline first."""
    parts: list[RenderableType] = [Text(_headline(report), style="bold")]
    if not report.graphs:
        parts.append(Text("No graph with a batch ran: nothing was split."))
    if report.full_batch_bytes:
        parts.append(Text(_peaks(report)))
    parts += [Text(line) for line in report.chosen]
    for number, graph in enumerate(report.graphs, start=1):
        title = f"graph {number} of {len(report.graphs)}"
        parts += [Text(), *_render_graph(title, graph, _asked_rows(report, graph.batch))]
    if report.whole:
        parts += [Text(), Text("computed on the full batch", style="bold"), indented(_table_of_lines(report.whole))]
    if report.kept:
        fix = Text(f"fix  {KEPT_FIX}")
        parts += [
            Text(),
            Text("kept for the full batch", style="bold"),
            indented(Group(_table_of_lines(report.kept), fix)),
        ]
    if report.notes:
        parts += [Text(), Text("notes", style="bold")]
        parts += [indented(Text(note)) for note in report.notes]
    return Group(*parts)


def _headline(report: Entries) -> str:
    """What was requested, and what was really run."""
    asked = f"steps={report.steps}" if report.steps is not None else f"micro_batch_size={report.asked_size}"
    if report.steps is None and report.asked_size is None:
        asked = "the defaults"
    return "; ".join([f"{report.name}: {asked} asked for", *_runs(report)])


def _runs(report: Entries) -> Iterator[str]:
    """How each batch ran."""
    split = dict.fromkeys((graph.batch, graph.micro_batches) for graph in report.graphs if graph.loops)
    for batch in dict.fromkeys(graph.batch for graph in report.graphs):
        ways = [f"as {described(sizes)}" for of, sizes in split if of == batch]
        yield from (f"a batch of {batch} ran {way}" for way in ways or ["whole: nothing could be split"])


def _peaks(report: Entries) -> str:
    """The estimated peak, and the full batch's."""
    mine, full = human(report.estimated_bytes), human(report.full_batch_bytes)
    without = "" if report.known else f" (both without {UNKNOWN})"
    return f"estimated peak of what it makes: {mine}; the full batch at once: {full}{without}"


def described(sizes: Sequence[int]) -> str:
    """Micro-batch sizes in words: 3 micro-batches of 4, or 5 micro-batches: 4 of 2 and 1 of 1."""
    runs = [(size, len(list(same))) for size, same in groupby(sizes)]
    if len(runs) == 1:
        size, count = runs[0]
        return f"{counted(count, 'micro-batch', 'micro-batches')} of {size}"
    return f"{len(sizes)} micro-batches: " + " and ".join(f"{count} of {size}" for size, count in runs)


def _asked_rows(report: Entries, batch: int) -> int:
    """The samples of a micro-batch that the user asked for."""
    return min(report.asked_size or batch, batch) if report.steps is None else -(-batch // report.steps)


def _render_graph(title: str, graph: GraphEntry, asked: int) -> Iterator[RenderableType]:
    calls = f"; ran {graph.calls} times" if graph.calls > 1 else ""
    yield Text.assemble((title, "bold"), f"  {graph.road}: {ROADS.get(graph.road, '')}{calls}")
    if graph.granule > 1:
        rows = graph.micro_batches[0]
        rounded = f", so micro-batches of {asked} became {rows}" if rows != asked else ""
        yield indented(Text(f"granule {graph.granule}: {graph.granule} samples stay together{rounded}"))
    last = max((loop.stage for loop in graph.loops), default=0)
    for loop in graph.loops:
        yield indented(_render_loop(loop))
        own = (b for b in graph.barriers if (b.stage, b.over) == (loop.stage, loop.over))
        yield from (indented(_render_barrier(b)) for b in own)
    stages = {loop.stage for loop in graph.loops}
    yield from (indented(_render_barrier(b)) for b in graph.barriers if b.stage not in stages or b.stage > last)


def _render_loop(loop: LoopEntry) -> RenderableType:
    ran = counted(loop.micro_batches, "micro-batch", "micro-batches")
    ran += f" of {loop.micro_batch_size}" if loop.rows >= 0 else ""
    if loop.over:
        ran += f" of {loop.rows} rows" if loop.rows >= 0 else " of as many rows as data decides"
    need = f"{human(loop.estimated_bytes)} at a time"
    size = counted(loop.nodes, "operator")
    title = Text.assemble((f"loop {loop.stage}", "bold cyan"), f"  {ran}, {size}, {need}")
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify)
    for kind in ("consts", "xs", "carry", "ys"):
        values = getattr(loop, kind)
        if values:
            table.add_row(kind, str(len(values)), _total(values), Text(_listed(values)))
    return Group(title, indented(table))


def _total(values: Sequence[ValueEntry]) -> str:
    """The bytes of all values, or that they are not known."""
    if not any(value.known for value in values):
        return "unknown"
    return ("" if all(value.known for value in values) else "over ") + human(sum(value.bytes for value in values))


def _listed(values: Sequence[ValueEntry]) -> str:
    """The largest values by name, and how many more there are."""
    largest = sorted(values, key=lambda value: -value.bytes)[:SHOWN]
    names = ", ".join(dict.fromkeys(map(_placed, largest)))
    return f"{names}, {len(values) - SHOWN} more" if len(values) > SHOWN else names


def _placed(value: ValueEntry) -> str:
    """Name and placement: x S(0); mask S(0) of R, if sliced from a whole value; loss P(sum) in float32, if widened."""
    sliced = f" of {value.sliced_from}" if value.sliced_from else ""
    return f"{value.name} {value.placement}" + sliced + (f" in {value.accumulated_in}" if value.accumulated_in else "")


def _render_barrier(barrier: BarrierEntry) -> RenderableType:
    """The barrier, then the user's line, why, and the path of placements."""
    size = human(barrier.bytes) if barrier.known else "unknown bytes"
    title = Text.assemble((f"{barrier.kind:<6}", "bold yellow"), f"  {barrier.name}, {size}")
    table = Table.grid(padding=(0, 2))
    rows = [("line", f"{barrier.where}  {barrier.code}".strip()), ("why", barrier.cause)]
    rows.append(("path", " -> ".join(barrier.path)))
    for name, text in rows:
        if text:
            table.add_row(name, Text(text))
    return Group(title, indented(table))


def _table_of_lines(values: Sequence[ValueEntry]) -> RenderableType:
    """The lines that values come from, the costliest first: bytes, the line, the values' names below it."""
    by_line: dict[str, list[ValueEntry]] = {}
    for value in values:
        line = f"{value.where}  {value.code}".strip() or "in a pass of PyTorch's"
        by_line.setdefault(line, []).append(value)
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    for line, group in sorted(by_line.items(), key=lambda item: -sum(v.bytes for v in item[1])):
        names = list(dict.fromkeys(value.name for value in sorted(group, key=lambda value: -value.bytes)))
        more = f", {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        table.add_row(_total(group), Text(line))
        table.add_row("", Text(", ".join(names[:SHOWN]) + more, style="dim"))
    return table
