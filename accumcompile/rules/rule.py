"""A rule: how an operator's dimensions line up, and in which operands it is linear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch.fx

from ..ir.placement import Size
from ..ir.sizes import Batch

Factor = str
Dim = tuple[Factor, ...]  # a dimension as its factors, outermost first; () where it is broadcast or opaque
Shape = tuple[Size, ...] | None  # None: an operand that is a Python scalar, or absent
Groups = tuple[AbstractSet[int], ...]  # sets of tensor operands, counted from 0
ANY: tuple[Dim, ...] = (("*",),)  # the dimensions of an operand or result that is any one micro-batch's


@dataclass(frozen=True)
class Dims:
    """How a node's dimensions line up: every dimension of every operand and result as factors.

    A factor names the same index wherever it stands, so a value sharded along it stays sharded along it.
    """

    operands: tuple[tuple[Dim, ...], ...]
    results: tuple[tuple[Dim, ...], ...]
    sizes: dict[Factor, Size]


@dataclass(frozen=True)
class Alignment(Dims):
    """A rule worked out for one node.

    A factor that a result lacks is contracted there: its micro-batches are reduced by ``reduce``.
    """

    linear: tuple[frozenset[int], ...]
    reduce: str | None


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
        linear: sets of tensor operands, counted from 0, in which the operator is jointly linear, the others held
            fixed; or a function of ``Facts`` that returns them, where they depend on the arguments. This is what
            licenses a partial sum to pass, and a factor to be contracted.
        whole: the factors of ``dims`` along which nothing may be split.
        reduce: how a contracted factor reduces. "sum" needs linearity, the others do not; with None no factor is
            contracted.
        align: works out how dimensions line up from the arguments, where words cannot say it, and returns ``Dims``
            (by ``align_dims``, as a rule); None where it does not cover them.
        shape_arg: the position of the argument that holds the result's shape.
        moves: the operator only moves data: any partial passes, and a value is made whole again for free by
            doing the same on the whole operand. So it is linear in all its operands together, which ``linear`` need
            not say.
        factory: the values of the result depend on no tensor: it is made at any placement for free.
        fill: the position of the argument that holds a factory's one value.
        discontinuous: a rounding error in an operand can change the result by a jump.
        local: emits the node in a body, where a copy with a local shape would not do.
        unrounded: emits the result as it is before it is rounded to half precision, for operators that compute it
            wider; None where it cannot be had.
        cheap: computing the result again takes next to no time beside saving and loading it, so any loop that needs
            it may. Where it is not said, what is ``exact`` is cheap, and nothing else.
        picks: each element of the result is one of an operand's, chosen by another operand, or a constant: a lookup,
            which is linear and adds nothing up.
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
    discontinuous: bool = False
    local: Callable | None = None
    unrounded: Callable | None = None
    cheap: bool | None = None
    picks: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether each element of the result is computed from the operands' elements at its place."""
        return self.dims == "... -> ..." and not self.moves

    @property
    def exact(self) -> bool:
        """Whether an element of the result is the same to the last bit in a tensor of any shape."""
        return self.pointwise or self.moves

    @property
    def is_cheap(self) -> bool:
        """``cheap``, said or not."""
        return self.exact if self.cheap is None else self.cheap

    @property
    def adds(self) -> bool:
        """Whether an element of the result may be a sum of many of an operand's."""
        return bool(self.linear) and not self.moves and not self.picks

    @cached_property
    def words(self) -> tuple[list[list[str]], list[list[str]]]:
        """The operands' and the results' dimensions as words."""
        left, right = self.dims.split("->")
        return [o.split() for o in left.split(",")], [r.split() for r in right.split(",")]

    def alignment(self, facts: Facts) -> Alignment | None:
        """This rule for one node; None where it has nothing to say of the node's arguments."""
        dims = self.align(facts) if self.align is not None else align_dims(facts, *self.words, self.whole.split())
        if dims is None:
            return None
        return Alignment(dims.operands, dims.results, dims.sizes, self.groups(facts), self.reduce)

    def groups(self, facts: Facts) -> tuple[frozenset[int], ...]:
        """``linear`` for one node: each set of operands."""
        said = self.linear(facts) if callable(self.linear) else self.linear
        together = [range(len(facts.shapes))] if self.moves else []
        return tuple(map(frozenset, (*said, *together)))


def align_dims(
    facts: Facts, operands: Sequence[Sequence[str]], results: Sequence[Sequence[str]], whole: Iterable[Factor] = ()
) -> Dims | None:
    """Line dimensions up by words, one a dimension; nothing is split along the factors in ``whole``.

    None where the words do not fit the shapes.
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
