"""The findings of the oracle as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from rich.console import Console
from rich.table import Table

from .survey import Verdict

COLUMNS = (
    "family",
    "operators",
    "calls",
    "split runs",
    "linear claims",
    "unsound",
    "errors",
    "possible",
    "missing",
    "missing %",
)


def family(name: str) -> str:
    """The family of an operator: its namespace, or ``tensor``."""
    head, _, rest = name.partition(".")
    return (
        f"{head}.{rest.split('.')[0]}"
        if head == "nn"
        else head
        if rest and head in ("fft", "linalg", "masked", "special", "signal")
        else "tensor"
    )


def rows(verdicts: Iterable[Verdict]) -> list[tuple[str, ...]]:
    """One row for each family, and one for all."""
    grouped: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        grouped[family(verdict.name)].append(verdict)
    everything = [v for group in grouped.values() for v in group]
    return [_row(name, group) for name, group in sorted(grouped.items())] + [_row("all", everything)]


def _row(name: str, group: Sequence[Verdict]) -> tuple[str, ...]:
    possible, missing = sum(v.possible for v in group), sum(len(v.missing) for v in group)
    counts = [
        len(group),
        sum(v.samples for v in group),
        sum(v.placed for v in group),
        sum(v.linear for v in group),
    ]
    wrong, errors = sum(len(v.unsound) for v in group), sum(len(v.failed) for v in group)
    share = f"{100 * missing / possible:.1f}" if possible else "-"
    return (name, *map(str, counts), str(wrong), str(errors), str(possible), str(missing), share)


def show(verdicts: Sequence[Verdict]) -> None:
    """Print the table, then everything unsound and missing."""
    table = Table(*COLUMNS)
    for row in rows(verdicts):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for line in details(verdicts):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def details(verdicts: Sequence[Verdict]) -> Iterable[str]:
    """Each finding on a line."""
    for verdict in verdicts:
        yield from (f"UNSOUND {text}" for text in verdict.unsound)
        yield from (f"FAILED {text}" for text in verdict.failed)
        yield from (f"missing {text}" for text in verdict.missing)
        if verdict.died:
            yield f"died {verdict.name}: an operator failed on parts of its input, or took too long"


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The page ``docs/coverage_ops.md``."""
    lines = [
        "# What the table of rules covers",
        "",
        f"Written by `make oracle` with torch {torch.__version__.split('+')[0]}.",
        "The operators and their calls are those of torch's own tests.",
        "",
        "- **split runs**: calls run whole and in uneven micro-batches, with their backward, and compared;",
        "- **linear claims**: operators run on a sum and on its parts;",
        "- **unsound**: differences found (must be none); **errors**: calls that the compiler refuses to split;",
        "- **possible**: placements that hold on all samples with the same other arguments, in three draws;",
        "- **missing**: those of them where the compiler gathers.",
        "",
        _line(COLUMNS),
        _line(["---"] * len(COLUMNS)),
        *map(_line, rows(verdicts)),
        "",
        "## Missing, by operator",
        "",
        *(f"- `{v.name}`: {len(v.missing)} of {v.possible}" for v in verdicts if v.missing),
        *(f"- `{v.name}`: not judged (it fails on parts of its input)" for v in verdicts if v.died),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
