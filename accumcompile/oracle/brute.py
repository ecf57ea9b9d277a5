"""Finds by trial what can be split: runs the pieces, and tests how their results form the whole result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..ir.loop import slice_rows
from ..ir.placement import Partial, Placement, Replicate, Shard
from ..ir.torch_api import pytree
from ..verify.differences import rel_diff
from .capture import Tensors, differentiable
from .check import TOLERANCE, parts_of, scale_of, seeded

REDUCE: dict[str, Callable] = {"sum": sum, "max": max, "min": min}
Holding = list[set[Placement]]  # for each result, every placement that gives the whole result


def sharded(
    fn: Callable, tensors: Tensors, choice: Sequence[int | None], pieces: Sequence[tuple[int, int]]
) -> Holding | None:
    """The placements of each result if the chosen dimensions are cut into ``pieces``; None if that fails."""
    size = next(x.shape[d] for x, d in zip(tensors, choice, strict=True) if d is not None)
    cut = [
        [x if d is None else slice_rows(x, d, start, rows, size) for x, d in zip(tensors, choice, strict=True)]
        for start, rows in pieces
    ]
    return _compare(fn, tensors, cut, [rows for _, rows in pieces])


def partial(fn: Callable, tensors: Tensors, chosen: Sequence[int]) -> Holding | None:
    """The placements of each result if the chosen operands are given as parts of a sum."""
    parts = {i: parts_of(tensors[i]) for i in chosen}
    cut = [[parts[i][k] if i in parts else x for i, x in enumerate(tensors)] for k in range(3)]
    return _compare(fn, tensors, cut, [])


def _compare(fn: Callable, tensors: Tensors, cut: list, rows: list[int]) -> Holding | None:
    try:
        whole = seeded_tensors(fn, tensors)
        runs = [seeded_tensors(fn, piece) for piece in cut]
    except Exception:  # an operator that fails on a piece cannot be split this way
        return None
    if any(len(run) != len(whole) for run in runs):
        return None
    return [_placements(w, list(local), rows) for w, *local in zip(whole, *runs, strict=True)]


def seeded_tensors(fn: Callable, tensors: Tensors) -> list[torch.Tensor]:
    """The tensor results of a run."""
    return [v for v in seeded(fn, tensors) if isinstance(v, torch.Tensor)]


def varies(fn: Callable, draws: Sequence[Tensors]) -> bool:
    """Whether the results depend on the values; for constants any placement seems to hold."""
    try:
        first, *others = [seeded_tensors(fn, tensors) for tensors in draws]
    except Exception:  # see _compare
        return False
    return any(not _same(a, b) for other in others for a, b in zip(first, other, strict=True))


def _placements(whole: torch.Tensor, local: list[torch.Tensor], rows: list[int]) -> set[Placement]:
    holding: set[Placement] = set()
    if all(_same(whole, piece) for piece in local):
        holding.add(Replicate())
    for dim in range(whole.dim()) if rows else ():
        holding |= {Shard(dim, outer) for outer in _outers(whole, dim, local, rows) if _joins(whole, dim, outer, local)}
    if all(piece.shape == whole.shape for piece in local) and not whole.is_complex():
        holding |= {Partial(op) for op in REDUCE if _same(whole, _reduced(op, local))}
    return holding


def _reduced(op: str, local: list[torch.Tensor]) -> torch.Tensor:
    stacked = torch.stack(local)
    return stacked.sum(0).to(local[0].dtype) if op == "sum" else getattr(stacked, f"a{op}")(0)


def _outers(whole: torch.Tensor, dim: int, local: list[torch.Tensor], rows: list[int]) -> list[int]:
    """The sizes that may lie outside of the batch in a dimension: each divides the size of every piece."""
    if sum(x.shape[dim] if x.dim() == whole.dim() else 0 for x in local) != whole.shape[dim]:
        return []
    each = {x.shape[dim] / r for x, r in zip(local, rows, strict=True)}
    if len(each) != 1 or not (ratio := each.pop()).is_integer():
        return []
    return [outer for outer in range(1, int(ratio) + 1) if int(ratio) % outer == 0]


def _joins(whole: torch.Tensor, dim: int, outer: int, local: list[torch.Tensor]) -> bool:
    try:
        return _same(whole, torch.cat([x.unflatten(dim, (outer, -1)) for x in local], dim + 1).flatten(dim, dim + 1))
    except RuntimeError:
        return False


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and rel_diff(a, b, scale_of(a)) < TOLERANCE


def intersect(draws: Sequence[Holding | None]) -> Holding | None:
    """The placements that hold in every draw."""
    if not draws or any(d is None or len(d) != len(draws[0] or ()) for d in draws):
        return None
    return [set.intersection(*column) for column in zip(*draws, strict=True)]


def backward(fn: Callable, count: int) -> Callable:
    """The gradients of ``fn`` as a function of its ``count`` tensors and of one tangent for each result."""

    def run(*given: torch.Tensor) -> list:
        with torch.enable_grad():
            tensors = [x.detach().requires_grad_(differentiable(x)) for x in given[:count]]
            results = [v for v in pytree.tree_leaves(fn(*tensors)) if isinstance(v, torch.Tensor) and v.requires_grad]
            inputs = [x for x in tensors if x.requires_grad]
            return list(torch.autograd.grad(results, inputs, list(given[count:]), allow_unused=True))

    return run
