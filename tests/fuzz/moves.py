"""More of the table: views, concatenations, indexing and order."""

from __future__ import annotations

from .maker import Maker, Unfit, Value
from .ops import has_batch, op

# --- views


@op(4)
def merge(m: Maker) -> str:
    """Two neighbours become one dimension: often the batch and another."""
    v = m.value(lambda v: v.rank > 1)
    d = m.one_of(range(v.rank - 1))
    sizes = [str(dim) for dim in v.dims[:d]] + ["-1"] + [str(dim) for dim in v.dims[d + 2 :]]
    forms = (f"{v}.flatten({d}, {d + 1})", f"{v}.reshape({', '.join(sizes)})")
    return m.one_of(forms if d or v.rank > 2 else (*forms, f"{v}.reshape(-1)"))


@op(4)
def split_dim(m: Maker) -> str:
    """A dimension becomes two: ``view(-1, k)`` and ``view(k, -1)``, also of the batch."""
    v = m.value(lambda v: any(v.dims[d].divisible(k, m.granule) for d, k in _pairs(v)))
    pairs = [(d, k) for d, k in _pairs(v) if v.dims[d].divisible(k, m.granule)]
    d, k = m.one_of(pairs)
    parts = m.one_of(([str(k), "-1"], ["-1", str(k)]))
    others = [str(dim) for dim in v.dims]
    return f"{v}.reshape({', '.join([*others[:d], *parts, *others[d + 1 :]])})"


def _pairs(v: Value) -> list[tuple[int, int]]:
    return [(d, k) for d in range(v.rank) for k in (2, 3, 4) if v.rank < 4]


@op(4)
def transpose(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 1)
    a, b = m.dim(v), m.dim(v)
    if v.rank == 2:
        return m.one_of((f"{v}.T", f"{v}.transpose(0, 1).contiguous()"))
    return f"{v}.transpose({a}, {b if a != b else (a + 1) % v.rank})"


@op(2)
def permute(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 2)
    left, order = list(range(v.rank)), []
    while left:
        order.append(left.pop(m.one_of(range(len(left)))))
    return f"{v}.permute({', '.join(map(str, order))})"


@op(2)
def unsqueeze(m: Maker) -> str:
    v = m.value(lambda v: v.rank < 4)
    return f"{v}.unsqueeze({m.one_of(range(v.rank + 1))})"


@op(2)
def squeeze(m: Maker) -> str:
    v = m.value(lambda v: any(str(dim) == "1" for dim in v.dims))
    return f"{v}.squeeze({m.one_of([d for d, dim in enumerate(v.dims) if str(dim) == '1'])})"


@op(2)
def expand(m: Maker) -> str:
    """A new dimension, or one of size 1, repeated: also as often as the batch is large."""
    v = m.value(lambda v: v.rank < 4)
    new = m.one_of(("3", "B"))
    ones = [d for d, dim in enumerate(v.dims) if str(dim) == "1"]
    if ones:
        sizes = [new if d == ones[0] else "-1" for d in range(v.rank)]
        return f"{v}.expand({', '.join(sizes)})"
    return f"{v}.expand({', '.join([new, *['-1'] * v.rank])})"


# --- concatenations and cuts


@op(4)
def cat(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    parts = [v, m.like(v)] + [m.like(v)] * m.chance(20)
    return f"torch.cat([{', '.join(map(str, parts))}], {m.dim(v)})"


@op(2)
def cat_uneven(m: Maker) -> str:
    """Parts of several sizes, a row of the batch's statistic among them."""
    v = m.value(lambda v: v.rank > 0)
    d = m.dim(v)
    return f"torch.cat([{v}, {v}.{m.one_of(('mean', 'amax', 'sum'))}({d}, keepdim=True)], {d})"


@op(2)
def stack(m: Maker) -> str:
    v = m.value(lambda v: v.rank < 4)
    return f"torch.stack([{v}, {m.like(v)}], {m.one_of(range(v.rank + 1))})"


@op(2)
def halves(m: Maker) -> str:
    """A dimension of even size in two halves that meet again."""
    v = m.value(lambda v: any(dim.divisible(2, m.granule) for dim in v.dims))
    d = m.one_of([d for d, dim in enumerate(v.dims) if dim.divisible(2, m.granule)])
    half = f"{v}.shape[{d}] // 2"
    forms = (
        f"torch.cat({v}.chunk(2, {d})[::-1], {d})",
        f"torch.mul(*{v}.split({half}, {d}))",
        f"F.glu({v}, {d})",
        f"{v}.narrow({d}, 0, {half}) - {v}.narrow({d}, {half}, {half})",
    )
    return m.one_of(forms)


@op(2)
def rows_apart(m: Maker) -> str:
    """The batch cut at fixed rows, or at every second: the parts have other statistics."""
    v = m.value(lambda v: 0 in v.batch_dims)
    forms = (
        "torch.cat([{0}[:1] * 2, {0}[1:]])",
        "{0}[1:].sum(0) - {0}[:1].sum(0)",
        "{0}[0] * {0}[-1]",
        "{0}[::2].mean(0) - {0}[1::2].mean(0)",
        "({0}[1:] - {0}[:-1]).square().sum(0)",
    )
    return m.one_of(forms).format(v)


@op(2)
def rounded(m: Maker) -> str:
    """As many rows as make whole groups, or a share of them, whatever the batch."""
    v = m.value(lambda v: 0 in v.batch_dims)
    k = m.one_of((2, 3, 4))
    rows = f"{v}.shape[0] // {k}"
    forms = (
        f"{v}[: {rows} * {k}].square().mean(0)",
        f"{v}[{rows} * {k} - 1 :].sum(0)",
        f"{v}[{rows} :].amax(0)",
        f"{v}[: {rows} * {k}].unflatten(0, (-1, {k})).std(1, unbiased=False).sum(0)",
        f"{v}[: ({v}.shape[0] + 1) // 2].mean(0)",
    )
    return m.one_of(forms)


# --- indexing


@op(4)
def cut(m: Maker) -> str:
    v = m.value(lambda v: bool(v.plain_dims))
    d = m.one_of(v.plain_dims)
    part = m.one_of((f"{v.size(d) - 1}", "1:", "::2", f":{(v.size(d) + 1) // 2}"))
    return f"{v}[{':, ' * d}{part}]"


@op(2)
def move_rows(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    return m.one_of((f"{v}.flip({m.dim(v)})", f"{v}.roll(1, {m.dim(v)})", f"F.pad({v}, (1, 0))"))


@op(2)
def shuffle(m: Maker) -> str:
    """Rows of the batch looked up by an index of the batch."""
    v = m.value(lambda v: v.rank > 0 and v.dims[0] == m.values[0].dims[0])
    forms = ["{0}[torch.arange(B - 1, -1, -1)]", "{0}[torch.arange(B)]"]
    index = m.one_of((*forms, "{0}[{1}]", "{0}.index_select(0, {1})"))
    return index.format(v, m.input("order", "torch.randperm(B)") if "{1}" in index else "")


@op(2)
def embed(m: Maker) -> str:
    table = m.parameter(7, 8)
    tokens = m.input("tokens", m.one_of(("torch.randint(7, (B, 3))", "torch.randint(7, (B,))")))
    return m.one_of(("F.embedding({1}, {0})", "{0}[{1}]")).format(table, tokens)


@op(2)
def gather(m: Maker) -> str:
    v = m.value(lambda v: v.rank == 2 and v.dims[0] == m.values[0].dims[0] and 1 in v.plain_dims)
    picked = m.input("picked", f"torch.randint({v.size(1)}, (B, 2))")
    return m.one_of(("{0}.gather(1, {1})", "{0}[torch.arange(B), {1}[:, 0]]")).format(v, picked)


@op(2)
def lookup_by_value(m: Maker) -> str:
    """A table indexed by what is largest."""
    v = m.value(lambda v: bool(v.plain_dims))
    d = m.apart(v)
    if d not in v.plain_dims:
        raise Unfit
    return f"{m.parameter(v.size(d), 8)}[{v}.argmax({d})]"


@op(2)
def add_by_index(m: Maker) -> str:
    """Sums of rows by group, which often are looked up again."""
    v = m.value(lambda v: v.rank == 2 and v.dims[0] == m.values[0].dims[0] and 1 in v.plain_dims)
    group = m.input("group", "torch.randint(3, (B,))")
    sums = f"{v}.new_zeros(3, {v.size(1)}).index_add(0, {group}, {v})"
    scattered = f"{v}.new_zeros(3, {v.size(1)}).scatter_add(0, {group}[:, None].expand_as({v}), {v})"
    return m.one_of((sums, f"{sums}[{group}]", scattered))


@op(1)
def scatter(m: Maker) -> str:
    v = m.value(lambda v: v.rank == 2 and v.dims[0] == m.values[0].dims[0] and v.size(1) >= 2 and 1 in v.plain_dims)
    place = m.input("place", f"torch.rand(B, {v.size(1)}).argsort(1)")
    forms = ("torch.zeros_like({0}).scatter(1, {1}, {0})", "{0}.scatter(1, {1}[:, :1], 0.5)")
    return m.one_of(forms).format(v, place)


@op(3)
def masked(m: Maker) -> str:
    """A mask of the batch: where, fill, or the rows it leaves."""
    v = m.value(lambda v: v.rank > 0 and v.dims[0] == m.values[0].dims[0])
    mask = m.input("mask", "torch.rand(B) < 0.7")
    wide = f"{mask}{'[:, None]' if v.rank == 2 else '[:, None, None]' if v.rank == 3 else ''}"
    if v.rank > 3:
        raise Unfit
    forms = (
        f"torch.where({wide}, {v}, 0.1)",
        f"{v}.masked_fill({wide}, -0.5)",
        f"({v} * {wide}).sum(0) / (1 + {mask}.sum())",
        f"{v}[{mask}].sum(0)",
        f"torch.cat([{v}[{mask}], {v}[~{mask}]]).logsumexp(0)",
    )
    return m.one_of(forms)


@op(1)
def triangle(m: Maker) -> str:
    return f"torch.tril({m.value(lambda v: v.rank >= 2)})"


# --- order


@op(3)
def order(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    d = m.apart(v)
    forms = (
        f"{v}.max({d}).values",
        f"{v}.sort({d}).values",
        f"{v}.topk(2, {d}).values",
        f"{v}.gather({d}, {v}.argmax({d}, keepdim=True))",
        f"{v}.sort({d}, descending=True).values.cumsum({d})",
        f"{v} * ({v} >= {v}.amax({d}, keepdim=True))",
    )
    return m.one_of(forms)


@op(1)
def rank_of(m: Maker) -> str:
    """Indices used as numbers."""
    v = m.value(lambda v: v.rank > 0)
    d = m.apart(v)
    return m.one_of((f"{v} * {v}.argmax({d}, keepdim=True)", f"{v} * {v}.argsort({d})"))


@op(1)
def positions(m: Maker) -> str:
    """Where a row stands in the batch, as a number."""
    v = m.value(lambda v: has_batch(v) and str(v.dims[-1]) == "B")
    return f"{v} * torch.arange(B) / B"
