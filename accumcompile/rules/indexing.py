"""Alignments of indexing operators: what an index looks up can be split wherever the index can."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .rule import Dims, Facts, Groups, Shape, align_dims


def gather(facts: Facts) -> Dims | None:
    """``gather(x, dim, index)``: dimensions other than ``dim`` line up if their sizes are equal."""
    x, index = facts.shapes[:2]
    dim = facts.argument(1, "dim") % max(len(x), 1)
    left = ["_" if d == dim else f"d{d}" for d in range(len(x))]
    right = [f"i{d}" if d == dim else f"d{d}" for d in range(len(index))]
    return align_dims(facts, [left, right], [right])


def scatter(*operands: str):
    """``scatter(self, dim, index, src)`` and its variants; ``operands`` names their tensor operands."""

    def align(facts: Facts) -> Dims | None:
        dim = facts.argument(1, "dim") % max(len(facts.shapes[0]), 1)
        rank = len(facts.shapes[0])
        outside = ["_" if d == dim else f"d{d}" for d in range(rank)]
        inside = [f"i{d}" if d == dim else f"d{d}" for d in range(rank)]
        words = [outside if name == "self" else inside for name in operands]
        return align_dims(facts, words[: len(facts.shapes)], [outside])

    return align


def where_added(facts: Facts) -> Groups:
    """``scatter_reduce(self, dim, index, src, reduce)`` is linear if it sums; the index is held fixed."""
    return ({0, 2},) if facts.argument(4, "reduce") == "sum" else ()


def index_select(facts: Facts) -> Dims | None:
    """``index_select(x, dim, index)``: ``dim`` becomes the index's dimension."""
    dim = facts.argument(1, "dim") % max(len(facts.shapes[0]), 1)
    names = [f"d{d}" for d in range(len(facts.shapes[0]))]
    left = [*names[:dim], "_", *names[dim + 1 :]]
    index = ["i"] * len(facts.shapes[1])
    return align_dims(facts, [left, index], [[*names[:dim], "i", *names[dim + 1 :]]])


def index(facts: Facts) -> Dims | None:
    """``x[:, i, j]``: the indices broadcast; their dimensions replace the first index, or lead if not adjacent."""
    words = _advanced(facts, facts.argument(1, "indices"), before=1)
    if words is None:
        return _unsplit(facts)
    return align_dims(facts, [words.outside, *words.indices], [words.inside])


def masked_index(facts: Facts) -> Dims | None:
    """``index`` with a mask that broadcasts against the result."""
    words = _advanced(facts, facts.argument(2, "indices"), before=2)
    if words is None:
        return None
    mask = words.inside_of(facts.shapes[1])
    return align_dims(facts, [words.outside, mask, *words.indices], [words.inside])


def masked_by_zero(facts: Facts) -> Groups:
    """A masked lookup fills masked-out elements with a number; it is linear only if that is 0."""
    return ({0},) if facts.argument(3, "fill") == 0 else ()


def index_put(facts: Facts) -> Dims | None:
    """``x[i, :, j] += values``: contracts the indices' dimensions.

    Without accumulation a later index overwrites an earlier one, so no dimension of the indices may be split.
    """
    words = _advanced(facts, facts.argument(1, "indices"), before=1)
    if words is None:
        return _unsplit(facts)
    if not facts.argument(3, "accumulate", False):
        words = words.opaque()
    values = words.inside_of(facts.shapes[-1])
    return align_dims(facts, [words.outside, *words.indices, values], [words.outside])


def masked_index_put(facts: Facts) -> Dims | None:
    """An accumulating ``index_put`` with a mask that selects the values to add."""
    words = _advanced(facts, facts.argument(2, "indices"), before=2)
    if words is None:
        return None
    mask, values = words.inside_of(facts.shapes[1]), words.inside_of(facts.shapes[-1])
    return align_dims(facts, [words.outside, mask, *words.indices, values], [words.outside])


def both_ends(facts: Facts) -> Groups:
    """Jointly linear in the first operand and the last, the values; between them is any number of indices."""
    return ({0, len(facts.shapes) - 1},)


def _unsplit(facts: Facts) -> Dims | None:
    """Indexing by a mask, with a data-dependent result size: no dimension lines up, but a partial sum may pass."""
    operands, results = (["_" for _ in shape or ()] for shape in facts.shapes), ["_" for _ in facts.results[0]]
    return align_dims(facts, list(operands), [results])


@dataclass(frozen=True)
class _Words:
    """Words for the indexed tensor, for what is looked up, and for each index."""

    outside: list[str]
    inside: list[str]
    indices: list[list[str]]

    def opaque(self) -> _Words:
        """The same words with no dimension of an index split."""
        taken = {w for index in self.indices for w in index}
        inside = ["_" if w in taken else w for w in self.inside]
        return _Words(self.outside, inside, [["_"] * len(index) for index in self.indices])

    def inside_of(self, shape: Shape) -> list[str]:
        """Words for an operand that broadcasts against what is looked up."""
        return self.inside[len(self.inside) - len(shape or ()) :]


def _advanced(facts: Facts, indices: list, before: int) -> _Words | None:
    """Words for an indexing whose indices follow ``before`` tensor operands; None for boolean masks."""
    shapes: list[Shape] = [facts.shapes[before + i] for i in range(len(indices))]
    given = [i for i, index in enumerate(indices) if index is not None]
    if not given or any(indices[i].meta["val"].dtype in (torch.bool, torch.uint8) for i in given):
        return None
    rank = max(len(shapes[i] or ()) for i in given)
    broadcast = [f"i{d}" for d in range(rank)]
    outside = ["_" if d in given else f"d{d}" for d in range(len(facts.shapes[0]))]
    adjacent = given == list(range(given[0], given[-1] + 1))
    named = [w for w in outside if w != "_"]
    place = given[0] if adjacent else 0
    ahead = sum(w != "_" for w in outside[:place])
    inside = named[:ahead] + broadcast + named[ahead:]
    return _Words(outside, inside, [broadcast[rank - len(s) :] if s is not None else [] for s in shapes])


def select_scatter(facts: Facts) -> Dims | None:
    """One index of a dimension is replaced; the others line up."""
    rank = len(facts.shapes[0])
    dim = facts.argument(2, "dim") % rank
    names = [f"d{i}" for i in range(rank)]
    whole = [*names[:dim], "_", *names[dim + 1 :]]
    return align_dims(facts, [whole, names[:dim] + names[dim + 1 :]], [whole])


def beside(position: int):
    """``op(self, dim, index, source)``: only dimensions other than ``dim`` line up."""

    def align(facts: Facts) -> Dims | None:
        rank = len(facts.shapes[0])
        dim = facts.argument(position, "dim") % max(rank, 1)
        names = ["_" if d == dim else f"d{d}" for d in range(rank)]
        index = ["_"] * len(facts.shapes[1])
        return align_dims(facts, [names, index, names], [names])

    return align


def searchsorted(facts: Facts) -> Dims | None:
    """One sorted sequence for all values, or one for each row of them."""
    rows = [f"d{d}" for d in range(len(facts.shapes[1]) - 1)]
    if len(facts.shapes[0]) == 1:
        values = [f"d{d}" for d in range(len(facts.shapes[1]))]
        return align_dims(facts, [["_"], values, ["_"]], [values])
    return align_dims(facts, [[*rows, "_"], [*rows, "n"], [*rows, "_"]], [[*rows, "n"]])
