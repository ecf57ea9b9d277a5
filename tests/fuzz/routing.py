"""More of the table: places that are computed, as a mixture of experts does; values that are kept and never used."""

from __future__ import annotations

from .maker import Maker, Unfit, Value
from .ops import op

KEPT = (
    "{0}.square().mean()",
    "torch.logsumexp({0}, -1).square().mean()",
    "{0}.detach().amax()",
    "torch.softmax({0}, -1).mean(0)",
    "({0} > 0).sum()",
    "{0}",
)


@op(3)
def routed(m: Maker) -> str:
    """The largest scores of each sample, put back where they stood, or summed over there."""
    v, d = _scores(m)
    best, where = f"{v}.topk(2, {d}).values", f"{v}.topk(2, {d}).indices"
    forms = (
        f"torch.zeros_like({v}).scatter({d}, {where}, {best})",
        f"torch.zeros_like({v}).scatter({d}, {where}, {best} / {best}.abs().sum({d}, keepdim=True))",
        f"torch.zeros_like({v}).scatter_add({d}, {where}, torch.softmax({best}, {d}))",
        f"{v} + torch.zeros_like({v}).scatter({d}, {where}, 1.0)",
        f"{v}.masked_fill(torch.zeros_like({v}).scatter({d}, {where}, 1.0) > 0, -1.0)",
    )
    return m.one_of(forms)


@op(2)
def picked_by_another(m: Maker) -> str:
    """One value's places read in another, and summed into it."""
    v, d = _scores(m)
    other, where = m.like(v), f"{v}.topk(2, {d}).indices"
    read = f"{other}.gather({d}, {where})"
    return m.one_of((read, f"{other}.scatter_add({d}, {where}, {read})", f"{other}.scatter({d}, {where}, 0.5)"))


@op(2)
def by_expert(m: Maker) -> str:
    """Sums over the samples of each expert, which often are looked up again; places in its queue."""
    v, d = _scores(m)
    if v.rank != 2 or d != 1 or v.dims[0] != m.values[0].dims[0]:
        raise Unfit
    expert, experts = f"{v}.argmax(1)", v.size(1)
    sums = f"{v}.new_zeros({experts}, {experts}).index_add(0, {expert}, {v})"
    queue = f"F.one_hot({expert}, {experts}).cumsum(0)"
    forms = (sums, f"{sums}[{expert}]", f"{v} * ({queue} <= 2)", f"{v} / {queue}.clamp(min=1)")
    return m.one_of(forms)


@op(2)
def added_at(m: Maker) -> str:
    """Rows summed into those of a value, in places that the batch gives; or running sums of a dimension."""
    v = m.value(lambda v: v.rank > 0)
    if v.dims[0] != m.values[0].dims[0]:
        return f"{v}.cumsum({m.dim(v)})"
    place = m.input("place_of", "torch.randint(B, (B,))")
    forms = (
        f"{v}.index_add(0, {place}, {m.like(v)})",
        f"torch.zeros_like({v}).index_add(0, {place}, {v})",
        f"torch.index_put({v}, ({place},), {m.like(v)}, accumulate=True)",
        f"{v}.cumsum(0)",
    )
    return m.one_of(forms)


@op(3)
def kept(m: Maker) -> str:
    """A value stays on the module, and nothing reads it."""
    v = m.value(lambda v: v.rank > 0)
    name = f"kept{len(m.values)}"
    return (
        f'(setattr(model, "{name}", {m.one_of(KEPT).format(v)}), {m.one_of(("0.5 * {0}", "{0}.tanh()")).format(v)})[1]'
    )


def _scores(m: Maker) -> tuple[Value, int]:
    """A value with an order along a dimension of at least three features."""
    v = m.value(lambda v: bool(v.plain_dims))
    d = m.apart(v)
    if d not in v.plain_dims or v.size(d) < 3:
        raise Unfit
    return v, d
