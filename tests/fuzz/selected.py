"""More of the table: a network on rows that are selected, sorted, cut off or joined, or a second batch's."""

from __future__ import annotations

from .maker import Maker, Unfit, Value
from .ops import op

WIDTH = 24

# What the network sees of the rows of a value, as many as data or a division decides.
ROWS = (
    "{v}[{mask}]",
    "{v}[{own}]",
    "{v}[torch.where({mask})[0]]",
    "torch.cat([{v}, {v}[{mask}]])",
    "torch.cat([{v}[{mask}], {v}[~{mask}]])",
    "{v}[: B // {k} * {k}]",
    "{v}[B // {k} :]",
    "{v}[0::{k}]",
    "{v}[1::2]",
    "{v}[1:] - {v}[:-1]",
    "torch.cat([{v}[B // 2 :], {v}[: B // 2]])",
)

# The same number of rows in another order.
ORDERS = ("{v}[{own_order}]", "{v}[{order}.argsort()]", "{v}.cumsum(0) / B", "{v}.sort(0).values")


# How many rows a second batch has, and what a value of one row a sample makes of them.
NUMBERS = ("3 * B + 1", "B // 2 + 7", "2 * B", "11")
MEETINGS = (
    "{own}.sum(0)",
    "{own}.square().mean(0)",
    "({of_v} @ {own}.T).logsumexp(1)",
    "({of_v} @ {own}.T).softmax(1) @ {own}",
    "{of_v} - {own}.mean(0)",
)


def _network(m: Maker, rows: str, last: int) -> str:
    first = m.parameter(last, WIDTH, scale=f" / {last}**0.5")
    second = m.parameter(WIDTH, WIDTH, scale=f" / {WIDTH}**0.5")
    return f"F.gelu(torch.tanh({rows} @ {first}) @ {second})"


def _of_the_batch(m: Maker) -> tuple[Value, dict[str, object]]:
    """A value of one row a sample, and what its rows may be selected by."""
    v = m.value(lambda v: v.rank in (2, 3) and v.dims[0] == m.values[0].dims[0] and v.rank - 1 in v.plain_dims)
    total = f"{v}.{'sum(1)' if v.rank == 2 else 'sum((1, 2))'}"
    names = {"v": v, "k": m.one_of((2, 3, 4)), "own": f"({total} > 0)", "own_order": f"{total}.argsort()"}
    return v, names | {
        "mask": m.input("mask", "torch.rand(B) < 0.7"),
        "order": m.input("order", "torch.randperm(B)"),
    }


@op(5)
def network_on_part(m: Maker) -> str:
    """A network on rows of another number than the batch's, summed or averaged over them."""
    v, names = _of_the_batch(m)
    out = _network(m, m.one_of(ROWS).format(**names), v.size(v.rank - 1))
    return m.one_of((f"{out}.sum(0)", f"{out}.square().sum(0)", f"{out}.mean(-1).sum(0)"))


@op(3)
def network_in_another_order(m: Maker) -> str:
    """A network on the rows in another order, or on what is summed up to each."""
    v, names = _of_the_batch(m)
    return _network(m, m.one_of(ORDERS).format(**names), v.size(v.rank - 1))


@op(3)
def network_on_a_second_batch(m: Maker) -> str:
    """A network on rows of their own, alone or met by those of the batch."""
    v, _ = _of_the_batch(m)
    if v.rank != 2:
        raise Unfit
    more = m.unshared_input("more", f"torch.randn({m.one_of(NUMBERS)}, {v.size(1)})")
    own = _network(m, more, v.size(1))
    of_v = f"({v} @ {m.parameter(v.size(1), WIDTH, scale=f' / {v.size(1)}**0.5')})"
    return m.one_of(MEETINGS).format(own=own, of_v=of_v)


@op(2)
def network_put_back(m: Maker) -> str:
    """A network on the rows of a mask, whose results go back to where they came from."""
    v, names = _of_the_batch(m)
    if v.rank != 2:
        raise Unfit
    out = _network(m, f"{v}[{names['mask']}]", v.size(1))
    zeros = f"torch.zeros(B, {WIDTH}, dtype={v}.dtype)"
    where = f"torch.where({names['mask']})[0]"
    forms = (f"{zeros}.index_add(0, {where}, {out})", f"{zeros}.index_put(({names['mask']},), {out})")
    return m.one_of(forms)
