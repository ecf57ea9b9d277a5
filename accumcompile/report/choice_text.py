"""What `explain()` says of the choice of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from accumcompile.printing.text import human
from accumcompile.session.choice import Choice

SHOWN = 4  # how many inputs are named


def choice_lines(choice: Choice) -> Iterator[str]:
    """Which inputs were split, why, and how to choose others; nothing for a batch of one, which is not split."""
    if not choice.inputs or choice.size == 1:
        return
    yield f"batch: {_listed(choice.inputs)}, of size {choice.size}: {choice.why}"
    if choice.row:
        yield f"its one row is split, as {choice.row} says, too"
    for size in dict.fromkeys(size for _, _, size in choice.beside):
        own = [(name, dim) for name, dim, rows in choice.beside if rows == size]
        yield f"rows of their own: {_listed(own)}, of size {size}"
    if other := choice.larger:
        what = f"{other.name} is larger ({human(other.bytes)}), and of size {other.size} along dim {other.dim}"
        yield f"{what}: {other.batch_dims} splits that instead"


def _listed(inputs: Sequence[tuple[str, int]]) -> str:
    """`dim 0 of x, y; dim 1 of mask`."""
    by_dim: dict[int, list[str]] = {}
    for name, dim in inputs:
        by_dim.setdefault(dim, []).append(name)
    return "; ".join(f"dim {dim} of {_some(names)}" for dim, names in by_dim.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
