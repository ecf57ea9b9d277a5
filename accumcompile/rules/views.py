"""Alignments of the operators that move data: views, concatenations, paddings. (Slices: `slices`.)"""

from __future__ import annotations

from ..ir.placement import Size
from .rule import Dim, Dims, Facts, Groups, align_dims
from .slices import value_of


def view(facts: Facts) -> Dims | None:
    """Split both shapes into their common factors: ``[B, T, C] -> [B*T, C]`` is ``b t c -> (b t) c``."""
    (source,), (target,) = facts.shapes[:1], facts.results
    sizes: dict[str, Size] = {}
    left: list[list[str]] = [[] for _ in source]
    right: list[list[str]] = [[] for _ in target]
    a, b = _Digits(source), _Digits(target)
    while a and b:
        factor = _common(a.size, b.size, facts.batch)
        name = f"f{len(sizes)}"
        if factor is None:
            _skip(a, b, facts.batch)
            continue
        sizes[name] = factor
        left[a.index].append(name)
        right[b.index].append(name)
        a.take(factor, facts.batch)
        b.take(factor, facts.batch)
    return Dims((tuple(map(tuple, left)),), (tuple(map(tuple, right)),), sizes)


class _Digits:
    """A shape read as the digits of a mixed-radix number, outermost first; dimensions of size 1 are skipped."""

    def __init__(self, shape: tuple[Size, ...]):
        self.rest = [(i, size) for i, size in enumerate(shape) if size != 1]

    def __bool__(self) -> bool:
        return bool(self.rest)

    @property
    def index(self) -> int:
        return self.rest[0][0]

    @property
    def size(self) -> Size:
        return self.rest[0][1]

    def take(self, factor: Size, batch) -> None:
        """Split ``factor`` off the outside of the leading dimension."""
        index, size = self.rest.pop(0)
        if not batch.equal(size, factor):
            self.rest.insert(0, (index, batch.quotient(size, factor)))


def _common(a: Size, b: Size, batch) -> Size | None:
    """The largest factor that can be split off the outside of both dimensions."""
    if batch.equal(a, b) or batch.quotient(b, a) is not None:
        return a
    return b if batch.quotient(a, b) is not None else None


def _skip(a: _Digits, b: _Digits, batch) -> None:
    """Leave out leading dimensions that have no common factor, up to where both shapes line up again."""
    _, left = a.rest.pop(0)
    _, right = b.rest.pop(0)
    while not batch.equal(left, right):
        behind, _other = (a, left) if len(a.rest) >= len(b.rest) and a.rest else (b, right)
        if not behind.rest:
            a.rest.clear()
            b.rest.clear()
            return
        size = behind.rest.pop(0)[1]
        left, right = (left * size, right) if behind is a else (left, right * size)


def expand(facts: Facts) -> Dims | None:
    """Dimensions line up from the right; those of size 1 are broadcast, and new ones belong to no operand."""
    (source,), (target,) = facts.shapes[:1], facts.results
    names = [f"d{i}" for i in range(len(target))]
    offset = len(target) - len(source)
    left = tuple(() if source[i] == 1 else (names[offset + i],) for i in range(len(source)))
    return Dims((left,), (tuple((n,) for n in names),), dict(zip(names, target, strict=True)))


def permute(facts: Facts) -> Dims | None:
    """Dimensions change places."""
    order = facts.argument(1, "dims")
    names = [f"d{i}" for i in range(len(facts.shapes[0]))]
    return align_dims(facts, [names], [[names[d] for d in order]])


def _one_dim_opaque(facts: Facts, dim: int, results: int = 1) -> Dims | None:
    """Every dimension but ``dim`` lines up."""
    rank = len(facts.shapes[0])
    names = [f"d{i}" for i in range(rank)]
    if rank:
        names[dim % rank] = "_"
    return align_dims(facts, [names], [names] * results)


def select(facts: Facts) -> Dims | None:
    """One index of a dimension: the others stay."""
    dim = facts.argument(1, "dim") % len(facts.shapes[0])
    names = [f"d{i}" for i in range(len(facts.shapes[0]))]
    left = [*names[:dim], "_", *names[dim + 1 :]]
    return align_dims(facts, [left], [names[:dim] + names[dim + 1 :]])


def cat(facts: Facts) -> Dims | None:
    """Along ``dim``, k parts of equal size form a dimension (k n); parts of different sizes do not line up."""
    dim = facts.argument(1, "dim", 0) % len(facts.results[0])
    names = [f"d{i}" for i in range(len(facts.results[0]))]
    part = facts.shapes[0][dim]
    if not all(facts.batch.equal(shape[dim], part) for shape in facts.shapes):
        words = [*names[:dim], "_", *names[dim + 1 :]]
        return align_dims(facts, [words], [words])
    operand: tuple[Dim, ...] = tuple((n,) for n in names)
    result = (*operand[:dim], ("parts", names[dim]), *operand[dim + 1 :])
    sizes = dict(zip(names, facts.shapes[0], strict=True)) | {"parts": len(facts.shapes)}
    return Dims((operand,) * len(facts.shapes), (result,), sizes)


def along(position: int, name: str = "dim", default: int = -1):
    """The alignment of an operator that mixes one dimension, named by an argument, and no other."""

    def align(facts: Facts) -> Dims | None:
        return _one_dim_opaque(facts, facts.argument(position, name, default), len(facts.results))

    return align


def along_many(position: int, name: str = "dims"):
    """The same for an argument that names several dimensions."""

    def align(facts: Facts) -> Dims | None:
        dims = facts.argument(position, name)
        rank = len(facts.shapes[0])
        mixed = {d % max(rank, 1) for d in dims} if dims else set(range(rank))
        names = ["_" if i in mixed else f"d{i}" for i in range(rank)]
        return align_dims(facts, [names], [names] * len(facts.results))

    return align


def pad(facts: Facts) -> Dims | None:
    """Padded dimensions are mixed."""
    padding = facts.argument(1, "pad")
    rank = len(facts.shapes[0])
    mixed = {rank - 1 - i // 2 for i, amount in enumerate(padding) if value_of(amount) != 0}
    names = ["_" if i in mixed else f"d{i}" for i in range(rank)]
    return align_dims(facts, [names], [names])


def padded_by_zero(facts: Facts) -> Groups:
    """Padding with anything but 0 is affine, not linear."""
    return ({0},) if facts.argument(2, "value", 0) in (0, None) else ()


def factory(facts: Facts) -> Dims | None:
    """No dimension of the result belongs to an operand."""
    names = tuple((f"d{i}",) for i in range(len(facts.results[0])))
    sizes = {name: size for (name,), size in zip(names, facts.results[0], strict=True)}
    return Dims(((),) * len(facts.shapes), (names,), sizes)


def unfold(facts: Facts) -> Dims | None:
    """Windows along one dimension."""
    rank = len(facts.shapes[0])
    dim = facts.argument(1, "dimension") % max(rank, 1)
    names = ["_" if i == dim else f"d{i}" for i in range(rank)]
    return align_dims(facts, [names], [[*names, "_"]])


def unbind(facts: Facts) -> Dims | None:
    """One result for each index of a dimension; the other dimensions stay."""
    rank = len(facts.shapes[0])
    dim = facts.argument(1, "dim", 0) % rank
    names = [f"d{i}" for i in range(rank)]
    others = names[:dim] + names[dim + 1 :]
    return align_dims(facts, [[*names[:dim], "_", *names[dim + 1 :]]], [others] * len(facts.results))


def repeat(facts: Facts) -> Dims | None:
    """A dimension repeated k times is (k n); None if a number of repeats depends on the batch."""
    (source,), (target,) = facts.shapes[:1], facts.results
    new = len(target) - len(source)
    sizes = {f"d{i}": size for i, size in enumerate(source, new)}
    right: list[Dim] = []
    for i, size in enumerate(target):
        count = facts.batch.quotient(size, source[i - new]) if i >= new else size
        if not count or facts.batch.in_size(count):
            return None
        sizes[f"k{i}"] = count
        right.append((f"k{i}", f"d{i}") if i >= new else (f"k{i}",))
    left = tuple((f"d{i}",) for i in range(new, len(target)))
    return Dims((left,), (tuple(right),), sizes)


def diagonal(facts: Facts) -> Dims | None:
    """The diagonal of two dimensions becomes the last dimension; the others stay."""
    left, others = _off_diagonal(facts, 1)
    return align_dims(facts, [left], [[*others, "_"]])


def diagonal_scatter(facts: Facts) -> Dims | None:
    """A diagonal is replaced; the other dimensions line up."""
    left, others = _off_diagonal(facts, 2)
    return align_dims(facts, [left, [*others, "_"]], [left])


def _off_diagonal(facts: Facts, position: int) -> tuple[list[str], list[str]]:
    """Words for the operand, and for its dimensions other than the diagonal's two."""
    rank = len(facts.shapes[0])
    pair = {facts.argument(position + i, f"dim{i}", i - 1) % rank for i in (1, 2)}
    words = ["_" if d in pair else f"d{d}" for d in range(rank)]
    return words, [w for w in words if w != "_"]
