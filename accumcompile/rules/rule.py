"""A rule: how an operator's dimensions line up, and in which operands it is linear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch.fx

from ..ir.operands import operands
from ..ir.placement import Size
from ..ir.sizes import Batch

Factor = str
Dim = tuple[Factor, ...]  # a dimension as its factors, outermost first; () where it is broadcast or opaque
Shape = tuple[Size, ...] | None  # None: an operand that is a Python scalar, or absent
Operands = bool | AbstractSet[int]  # all of the tensor operands, none, or those, counted from 0
Groups = tuple[AbstractSet[int], ...]  # sets of tensor operands, counted from 0
ANY: tuple[Dim, ...] = (("*",),)  # the dimensions of an operand or result taken from any one micro-batch


@dataclass(frozen=True)
class Dims:
    """How a node's dimensions line up: every dimension of every operand and result as factors.

    A factor names the same index wherever it occurs, so a value sharded along it stays sharded along it.
    """

    operands: tuple[tuple[Dim, ...], ...]
    results: tuple[tuple[Dim, ...], ...]
    sizes: dict[Factor, Size]


@dataclass(frozen=True)
class Alignment(Dims):
    """A rule applied to one node.

    A factor that a result lacks is contracted: the micro-batches' results are reduced by ``reduce``.
    """

    linear: tuple[frozenset[int], ...]
    reduce: str | None


@dataclass(frozen=True)
class Facts:
    """What an alignment is computed from: a node, the shapes of its tensor operands and results, the batch."""

    node: torch.fx.Node
    shapes: tuple[Any, ...]  # each a Shape, and always a tuple where the operator's schema requires a tensor
    results: tuple[Any, ...]
    batch: Batch

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the node, positional or keyword."""
        args, kwargs = self.node.args, self.node.kwargs
        return args[position] if len(args) > position else kwargs.get(name, default)


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Args:
        dims: how dimensions line up, in einsum notation: ``"m k, k n -> m n"``. ``...`` stands for dimensions that
            broadcast as in pointwise operators, ``_`` for one that may not be split, and ``_...`` for any number of
            those. Several operands or results are separated by commas; a single operand stands for all. ``*`` stands
            for a result that says nothing about the batch, and for an operand that may be such a result: the value of
            any one micro-batch is used.
        linear: sets of tensor operands, counted from 0, in which the operator is jointly linear with the others held
            fixed; or a function of ``Facts`` that returns them, if they depend on the arguments. Linearity allows a
            partial sum to pass through, and a factor to be contracted.
        whole: the factors of ``dims`` along which nothing may be split.
        reduce: how a contracted factor is reduced. "sum" needs linearity, the others do not; with None no factor is
            contracted.
        align: computes how dimensions line up from the arguments, if ``dims`` cannot express it, and returns ``Dims``
            (usually from ``align_dims``), or None for arguments that the rule does not cover.
        shape_arg: the position of the argument that holds the result's shape.
        moves: the operator only moves data: partial sums, maxima and minima pass through, and the full value is
            recomputed for free from the whole operand. The operator is then linear in all its operands together, and
            ``linear`` need not say so.
        factory: the values of the result depend on no tensor, so it can be made at any placement for free.
        fill: the position of the argument that holds a factory's constant value.
        discontinuous: where a rounding error in an operand can make the result jump, or leave the operator's domain: a
            comparison, a logarithm at 0, a denominator. True for all tensor operands, or the set of these, counted
            from 0; or a function of the node that returns either.
        local: emits the node into a body, if a copy with the local shape is not enough.
        unrounded: emits the result before it is rounded to half precision, for operators that compute it in a wider
            dtype; returns None if that is impossible.
        cheap: recomputing the result takes almost no time compared with saving and loading it, so any loop may
            recompute it. If None, the operator is cheap exactly if it is ``exact``.
        picks: each element of the result is a constant or an element of an operand, selected by another operand or
            by its order: a lookup, a maximum. It sums nothing.
    """

    dims: str = ""
    linear: Groups | Callable[[Facts], Groups] = ()
    whole: str = ""
    reduce: str | None = "sum"
    align: Callable[[Facts], Dims | None] | None = None
    shape_arg: int | None = None
    moves: bool = False
    factory: bool = False
    fill: int | None = None
    discontinuous: Operands | Callable[[torch.fx.Node], Operands] = False
    local: Callable | None = None
    unrounded: Callable | None = None
    cheap: bool | None = None
    picks: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether each element of the result is computed from the operands' elements at the same position."""
        return self.dims == "... -> ..." and not self.moves

    @property
    def exact(self) -> bool:
        """Whether an element of the result is bitwise the same in a tensor of any shape."""
        return self.pointwise or self.moves

    @property
    def is_cheap(self) -> bool:
        """``cheap``, or ``exact`` if that is None."""
        return self.exact if self.cheap is None else self.cheap

    @property
    def adds(self) -> bool:
        """Whether an element of the result may be a sum of many elements of an operand."""
        return bool(self.linear) and not self.moves and not self.picks

    def jumps_in(self, node: torch.fx.Node) -> set[torch.fx.Node]:
        """The operands in which one node is discontinuous."""
        said = self.discontinuous(node) if callable(self.discontinuous) else self.discontinuous
        if not said:
            return set()
        taken = [operand.node for operand in operands(node)]
        return {n for i, n in enumerate(taken) if n is not None and (said is True or i in said)}

    @cached_property
    def words(self) -> tuple[list[list[str]], list[list[str]]]:
        """The operands' and the results' dimensions as words."""
        left, right = self.dims.split("->")
        return [o.split() for o in left.split(",")], [r.split() for r in right.split(",")]

    def alignment(self, facts: Facts) -> Alignment | None:
        """This rule applied to one node; None if it does not cover the node's arguments."""
        dims = self.align(facts) if self.align is not None else align_dims(facts, *self.words, self.whole.split())
        if dims is None:
            return None
        return Alignment(dims.operands, dims.results, dims.sizes, self.groups(facts), self.reduce)

    def groups(self, facts: Facts) -> tuple[frozenset[int], ...]:
        """The sets of operands in which one node is jointly linear."""
        said = self.linear(facts) if callable(self.linear) else self.linear
        together = [range(len(facts.shapes))] if self.moves else []
        return tuple(map(frozenset, (*said, *together)))


def align_dims(
    facts: Facts, operands: Sequence[Sequence[str]], results: Sequence[Sequence[str]], whole: Iterable[Factor] = ()
) -> Dims | None:
    """Line up dimensions by words, one per dimension; nothing is split along the factors in ``whole``.

    Returns None if the words do not fit the shapes.
    """
    left, right = list(operands), list(results)
    left = left * len(facts.shapes) if len(left) == 1 else left
    if len(left) < len(facts.shapes) or len(right) != len(facts.results):
        return None
    pairs = list(zip(left, facts.shapes, strict=False)) + list(zip(right, facts.results, strict=True))
    if any(words == ["*"] and _grows(shape, facts.batch) for words, shape in pairs):
        return None
    pairs = [(words, None if words == ["*"] else shape) for words, shape in pairs]
    broadcast = (len(shape) - len(words) + 1 for words, shape in pairs if shape is not None and "..." in words)
    depth = max(broadcast, default=0)
    fitting = [_names(words, shape, depth) for words, shape in pairs]
    names = [letters for letters in fitting if letters is not None]
    if len(names) < len(fitting):
        return None
    sizes, conflicts = _sizes(names, [shape for _, shape in pairs], facts.batch)
    opaque = conflicts | set(whole)
    dims = tuple(
        ANY if words == ["*"] else _dims(n, shape, sizes, opaque)
        for n, (words, shape) in zip(names, pairs, strict=True)
    )
    sizes |= {"*": 1} if ANY in dims else {}
    count = len(facts.shapes)
    return Dims(dims[:count], dims[count:], sizes)


def _grows(shape: Shape, batch: Batch) -> bool:
    """Whether a dimension of ``shape`` depends on the batch's size."""
    return any(batch.in_size(size) for size in shape or ())


def _names(words: Sequence[str], shape: Shape, depth: int) -> tuple[Factor, ...] | None:
    """The name of each dimension of ``shape``; None if the words do not fit it."""
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
    """Dimensions as factors: () for a dimension that may not be split or is broadcast from size 1."""
    return tuple(
        () if name in opaque or (size == 1 and sizes[name] != 1) else (name,)
        for name, size in zip(names, shape or (), strict=True)
    )
