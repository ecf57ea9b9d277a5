"""Alignments of the operators that reduce dimensions named by an argument."""

from __future__ import annotations

from collections.abc import Sequence

from .rule import Dims, Facts, align_dims


def _reduced(facts: Facts, dims: Sequence[int] | None, keepdim: bool, opaque: bool) -> Dims | None:
    rank = len(facts.shapes[0])
    gone = set(range(rank)) if not dims else {d % rank for d in dims} if rank else set()
    left = ["_" if opaque and i in gone else f"d{i}" for i in range(rank)]
    right = [f"one{i}" if i in gone else f"d{i}" for i in range(rank) if keepdim or i not in gone]
    return align_dims(facts, [left], [right] * len(facts.results))


def over(position: int = 1, name: str = "dim", keepdim: int = 2):
    """A reduction over a list of dimensions (none: all), each of which may be split and contracted."""

    def align(facts: Facts) -> Dims | None:
        return _reduced(facts, facts.argument(position, name), bool(facts.argument(keepdim, "keepdim", False)), False)

    return align


def whole_over(position: int = 1, name: str = "dim", keepdim: int = 2, default: int | None = None):
    """A reduction that needs every reduced dimension whole: a mean, a variance, an argmax."""

    def align(facts: Facts) -> Dims | None:
        dims = facts.argument(position, name, default)
        dims = [dims] if isinstance(dims, int) else dims
        return _reduced(facts, dims, bool(facts.argument(keepdim, "keepdim", False)), True)

    return align


def moments(facts: Facts) -> Dims | None:
    """(count, mean, M2) stacked along a new first dimension; reduced dimensions stay with size 1."""
    rank = len(facts.shapes[0])
    gone = {d % rank for d in facts.argument(1, "dims")}
    left = [f"d{i}" for i in range(rank)]
    right = ["three", *(f"one{i}" if i in gone else f"d{i}" for i in range(rank))]
    return align_dims(facts, [left], [right])
