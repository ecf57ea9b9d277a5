"""Alignments of the operators that index: what is looked up by a value may be split wherever the index may."""

from __future__ import annotations

import torch

from .rule import Alignment, Facts, Shape, align_dims


def gather(facts: Facts) -> Alignment | None:
    """``gather(x, dim, index)``: besides ``dim``, dimensions line up where they have one size."""
    x, index = facts.shapes[:2]
    dim = facts.argument(1, "dim") % max(len(x), 1)
    left = ["_" if d == dim else f"d{d}" for d in range(len(x))]
    right = [f"i{d}" if d == dim else f"d{d}" for d in range(len(index))]
    return align_dims(facts, [left, right], [right], linear=({0},))


def scatter(*operands: str, linear: tuple = ()):
    """``scatter(self, dim, index, src)`` and its kin, whose tensor operands are named."""

    def align(facts: Facts) -> Alignment | None:
        dim = facts.argument(1, "dim") % max(len(facts.shapes[0]), 1)
        rank = len(facts.shapes[0])
        outside = ["_" if d == dim else f"d{d}" for d in range(rank)]
        inside = [f"i{d}" if d == dim else f"d{d}" for d in range(rank)]
        words = [outside if name == "self" else inside for name in operands]
        return align_dims(facts, words[: len(facts.shapes)], [outside], linear=linear)

    return align


def index_select(facts: Facts) -> Alignment | None:
    """``index_select(x, dim, index)``: ``dim`` becomes the index's dimension."""
    dim = facts.argument(1, "dim") % max(len(facts.shapes[0]), 1)
    names = [f"d{d}" for d in range(len(facts.shapes[0]))]
    left = [*names[:dim], "_", *names[dim + 1 :]]
    index = ["i"] * len(facts.shapes[1])
    return align_dims(facts, [left, index], [names[:dim] + ["i"] + names[dim + 1 :]], linear=({0},))


def index(facts: Facts) -> Alignment | None:
    """``x[i, :, j]``: the indices broadcast together; their dimensions stand where the first of them stood."""
    words = _advanced(facts, facts.argument(1, "indices"))
    if words is None:
        return None
    outside, inside, indices = words
    return align_dims(facts, [outside, *indices], [inside], linear=({0},))


def index_put(facts: Facts) -> Alignment | None:
    """``x[i, :, j] += values``: jointly linear in x and the values, and contracts the indices' dimensions."""
    if not facts.argument(3, "accumulate", False):
        return None
    words = _advanced(facts, facts.argument(1, "indices"))
    if words is None:
        return None
    outside, inside, indices = words
    values = facts.shapes[-1] or ()
    inside = inside[len(inside) - len(values) :] if len(values) <= len(inside) else inside
    return align_dims(facts, [outside, *indices, inside], [outside], linear=({0, len(facts.shapes) - 1},))


def _advanced(facts: Facts, indices: list) -> tuple[list, list, list] | None:
    """Words for the indexed tensor, for the result of the lookup and for each index; None for boolean masks."""
    shapes: list[Shape] = [facts.shapes[1 + i] for i in range(len(indices))]
    given = [i for i, index in enumerate(indices) if index is not None]
    if not given or any(indices[i].meta["val"].dtype in (torch.bool, torch.uint8) for i in given):
        return None
    rank = max(len(shapes[i]) for i in given)
    broadcast = [f"i{d}" for d in range(rank)]
    outside = ["_" if d in given else f"d{d}" for d in range(len(facts.shapes[0]))]
    adjacent = given == list(range(given[0], given[-1] + 1))
    place = given[0] if adjacent else 0
    kept = [w for w in outside if w != "_"]
    before = len([w for w in outside[:place] if w != "_"])
    inside = kept[:before] + broadcast + kept[before:]
    return outside, inside, [broadcast[rank - len(s) :] if s is not None else [] for s in shapes]


def select_scatter(facts: Facts) -> Alignment | None:
    """One index of a dimension is replaced; the others line up."""
    rank = len(facts.shapes[0])
    dim = facts.argument(2, "dim") % rank
    names = [f"d{i}" for i in range(rank)]
    whole = [*names[:dim], "_", *names[dim + 1 :]]
    return align_dims(facts, [whole, names[:dim] + names[dim + 1 :]], [whole])
