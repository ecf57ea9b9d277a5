"""The text of a verification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from accumcompile.printing.text import counted, indented
from accumcompile.verify.compare import Row, Verification

TITLES = {
    "loss": "loss",
    "output": "outputs",
    "gradient": "gradients",
    "parameter": "parameters",
    "buffer": "buffers",
    "optimizer state": "optimizer state",
    "other": "other tensors",
}
NAMED_FAILURES = 5  # how many of the values that failed are named


def render_verification(report: Verification) -> RenderableType:
    """The verdict, the largest difference of each group, what failed, notes."""
    verdict, style = ("passed", "bold green") if report.passed else ("FAILED", "bold red")
    rows = report.rows
    head = f"  {report.split}; {counted(len(rows), 'value')}, largest difference {_number(report.max_rel_diff)}"
    parts: list[RenderableType] = [
        Text.assemble((f"{report.name}: ", "bold"), (verdict, style), head),
        indented(Text(f"allowed: {report.allowed}")),
        Text(),
        indented(table(rows)),
    ]
    failed = sorted((row for row in rows if not row.passed), key=lambda row: -row.rel_diff)
    if failed:
        parts += [Text(), Text("failed", style="bold red")]
        parts += [indented(Text(f"{row.name}  {_number(row.rel_diff)}")) for row in failed[:NAMED_FAILURES]]
        if len(failed) > NAMED_FAILURES:
            parts.append(indented(Text(f"and {len(failed) - NAMED_FAILURES} more")))
    if report.notes:
        parts += [Text(), Text("notes", style="bold"), *(indented(Text(note)) for note in report.notes)]
    return Group(*parts)


def table(rows: Sequence[Row]) -> RenderableType:
    """The largest difference of each group."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for kind in TITLES:
        for row in rows:
            if row.kind == kind:
                groups.setdefault((kind, row.group), []).append(row)
    exact = any(row.error is not None for row in rows)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column("largest difference to", no_wrap=True)
    for title in ("values", "full batch", "eager", *(("float64", "own") if exact else ())):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("at", overflow="fold")
    for (kind, group), members in groups.items():
        columns: list[list[float | None]] = [
            [row.rel_diff for row in members],
            [row.eager for row in members],
        ]
        if exact:
            columns += [[row.error for row in members], [row.full_error for row in members]]
        name = f"{TITLES[kind]}, {group}" if group else TITLES[kind]
        worst = max(members, key=lambda row: row.rel_diff)
        at = worst.name if worst.rel_diff and worst.name != name else ""
        grid.add_row(Text(name), str(len(members)), *map(_largest_of, columns), Text(at))
    below = [Text(line) for line, holds in _legend(rows, exact) if holds]
    return Group(grid, Text(), *below) if below else grid


def _legend(rows: Sequence[Row], exact: bool) -> Iterator[tuple[str, bool]]:
    yield "own: the full batch's difference to float64", exact
    yield "to eager: not comparable: draws random numbers", any(row.eager is None for row in rows)


def _largest_of(differences: Sequence[float | None]) -> str:
    numbers = [difference for difference in differences if difference is not None]
    return _number(max(numbers)) if numbers else "-"


def _number(value: float) -> str:
    return f"{value:.1e}" if value else "0"
