"""A rule: how an operator's dimensions line up, and in which operands it is linear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch.fx

from ..placement import Size
from ..sizes import Batch

Factor = str
Dim = tuple[Factor, ...]  # a dimension as its factors, outermost first; () where it is broadcast or opaque
Shape = tuple[Size, ...] | None  # None: an operand that is a Python scalar, or absent
ANY: tuple[Dim, ...] = (("*",),)  # the dimensions of an operand or result that is any one micro-batch's


@dataclass(frozen=True)
class Alignment:
    """A rule worked out for one node: every dimension of every operand and result as factors.

    A factor names the same index wherever it stands, so a value sharded along it stays sharded along it. A factor
    that a result lacks is contracted there: its micro-batches are reduced by ``reduce``.
    """

    operands: tuple[tuple[Dim, ...], ...]
    results: tuple[tuple[Dim, ...], ...]
    sizes: dict[Factor, Size]
    linear: tuple[frozenset[int], ...] = ()
    reduce: str | None = "sum"


@dataclass(frozen=True)
class Facts:
    """What an alignment is worked out from: a node, the shapes of its tensor operands and results, the batch."""

    node: torch.fx.Node
    shapes: tuple[Any, ...]  # each a Shape, and a tuple wherever the operator's schema asks for a tensor
    results: tuple[Any, ...]
    batch: Batch

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """The node's argument, wherever it was written."""
        args, kwargs = self.node.args, self.node.kwargs
        return args[position] if len(args) > position else kwargs.get(name, default)


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Args:
        dims: how dimensions line up, as einsum writes it: ``"m k, k n -> m n"``. ``...`` stands for dimensions that
            broadcast as pointwise operators broadcast them, ``_`` for one that may not be split and ``_...`` for any
            number of those. Several results are separated by commas; one operand stands for all. ``*`` stands for a
            result that says nothing of the batch, and for an operand that may be such a result: any one micro-batch's
            will do.
        linear: sets of tensor operands in which the operator is jointly linear, the others held fixed. This is what
            licenses a partial sum to pass, and a factor to be contracted.
        whole: the factors along which nothing may be split.
        reduce: how a contracted factor reduces. "sum" needs linearity, the others do not.
        align: works the dimensions out from the arguments, where a string cannot.
        shape_arg: the position of the argument that holds the result's shape.
        moves: the operator only moves data: any partial passes, and a value is made whole again for free by
            doing the same on the whole operand.
        factory: the values of the result depend on no tensor: it is made at any placement for free.
        fill: the position of the argument that holds a factory's one value.
        discontinuous: a rounding error in an operand can change the result by a jump.
        local: emits the node in a body, where a copy with a local shape would not do.
        unrounded: emits the result as it is before it is rounded to half precision, for operators that compute it
            wider; None where it cannot be had.
    """

    dims: str = ""
    linear: tuple[set[int], ...] = ()
    whole: str = ""
    reduce: str | None = "sum"
    align: Callable[[Facts], Alignment | None] | None = None
    shape_arg: int | None = None
    moves: bool = False
    factory: bool = False
    fill: int | None = None
    discontinuous: bool = False
    local: Callable | None = None
    unrounded: Callable | None = None

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result is computed from the operands' elements at its place."""
        return self.dims == "... -> ..." or self.moves

    @cached_property
    def words(self) -> tuple[list[list[str]], list[list[str]]]:
        """The operands' and the results' dimensions as words."""
        left, right = self.dims.split("->")
        return [o.split() for o in left.split(",")], [r.split() for r in right.split(",")]

    def alignment(self, facts: Facts) -> Alignment | None:
        """This rule for one node; None where it has nothing to say of the node's arguments."""
        if self.align is None:
            return align_words(*self.words, facts, self)
        found = self.align(facts)
        return found and replace(found, linear=found.linear or self.groups, reduce=found.reduce and self.reduce)

    @cached_property
    def groups(self) -> tuple[frozenset[int], ...]:
        """``linear`` in the form that alignments hold."""
        return tuple(frozenset(group) for group in self.linear)


def align_words(left: Sequence, right: Sequence, facts: Facts, rule: Rule) -> Alignment | None:
    """Line dimensions up by their words."""
    left = list(left) * len(facts.shapes) if len(left) == 1 else left
    if len(left) < len(facts.shapes) or len(right) != len(facts.results):
        return None
    pairs = list(zip(left, facts.shapes, strict=False)) + list(zip(right, facts.results, strict=True))
    if any(words == ["*"] and _grows(shape, facts.batch) for words, shape in pairs):
        return None
    pairs = [(words, None if words == ["*"] else shape) for words, shape in pairs]
    broadcast = (len(shape) - len(words) + 1 for words, shape in pairs if shape is not None and "..." in words)
    depth = max(broadcast, default=0)
    fitting = [_names(words, shape, depth) for words, shape in pairs]
    names = [found for found in fitting if found is not None]
    if len(names) < len(fitting):
        return None
    sizes, conflicts = _sizes(names, [shape for _, shape in pairs], facts.batch)
    opaque = conflicts | set(rule.whole.split())
    dims = tuple(
        ANY if words == ["*"] else _dims(n, shape, sizes, opaque)
        for n, (words, shape) in zip(names, pairs, strict=True)
    )
    sizes |= {"*": 1} if ANY in dims else {}
    count = len(facts.shapes)
    return Alignment(dims[:count], dims[count:], sizes, rule.groups, rule.reduce)


def _grows(shape: Shape, batch: Batch) -> bool:
    """Whether a dimension of ``shape`` depends on the batch's size."""
    return any(batch.in_size(size) for size in shape or ())


def _names(words: list[str], shape: Shape, depth: int) -> tuple[Factor, ...] | None:
    """The name of each dimension of ``shape``; None where the words do not fit it."""
    if shape is None:
        return ()
    names: list[Factor] = []
    for word in words:
        count = len(shape) - len(words) + 1
        if word == "...":
            names += [f"...{depth - count + i}" for i in range(count)]
        else:
            names += ["_"] * count if word == "_..." else [word]
    return tuple(names) if len(names) == len(shape) else None


def _sizes(names: list, shapes: list[Shape], batch: Batch) -> tuple[dict[Factor, Size], set[Factor]]:
    """The size of each factor (1 only where it is 1 everywhere), and the factors whose sizes disagree."""
    sizes: dict[Factor, Size] = {}
    conflicts = {"_"}
    for factors, shape in zip(names, shapes, strict=True):
        for factor, size in zip(factors, shape or (), strict=True):
            if sizes.get(factor, 1) == 1:
                sizes[factor] = size
            elif size != 1 and not batch.equal(size, sizes[factor]):
                conflicts.add(factor)
    return sizes, conflicts


def _dims(names: tuple, shape: Shape, sizes: dict, opaque: set[Factor]) -> tuple[Dim, ...]:
    """Dimensions as factors: none where a dimension may not be split or is broadcast from size 1."""
    return tuple(
        () if name in opaque or (size == 1 and sizes[name] != 1) else (name,)
        for name, size in zip(names, shape or (), strict=True)
    )


def align_dims(
    facts: Facts, operands: Sequence[Sequence[str]], results: Sequence[Sequence[str]], **kw
) -> Alignment | None:
    """Line dimensions up by lists of words, one a dimension: for alignments worked out from arguments."""
    rule = Rule(linear=kw.get("linear", ()), reduce=kw.get("reduce", "sum"))
    return align_words([list(o) for o in operands], [list(r) for r in results], facts, rule)
