"""The table of losses: each yields the code of one scalar term."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from .maker import Maker, Unfit, Value
from .ops import has_batch

LOSSES: list[Callable[[Maker, Value], str]] = []


def loss(generator: Callable[[Maker, Value], str]) -> Callable[[Maker, Value], str]:
    """Enter a loss in the table. It is given the value that it ends."""
    LOSSES.append(generator)
    return generator


@loss
def mean_square(m: Maker, v: Value) -> str:
    return f"{v}.square().mean()"


@loss
def total(m: Maker, v: Value) -> str:
    """A sum, or one divided by a count."""
    forms = ("{0}.square().sum() / B", "torch.tanh({0}).sum()", "{0}.abs().sum() / 10", "torch.sin({0}).sum(0).mean()")
    return m.one_of(forms if v.rank else forms[1:3]).format(v)


@loss
def against_target(m: Maker, v: Value) -> str:
    target = _per_sample(m, v, "target", "torch.randn(B, {n})")
    kind = m.one_of(("F.mse_loss({0}, {1})", "F.smooth_l1_loss({0}, {1})", 'F.mse_loss({0}, {1}, reduction="sum") / B'))
    return kind.format(v, target)


@loss
def classes(m: Maker, v: Value) -> str:
    """Cross entropy of some rows: those with the label -100 do not count."""
    _require(v.rank > 1 and v.rank - 1 in v.plain_dims)
    n = v.size(-1)
    _require(n > 1)
    rows = replace(v, dims=v.dims[:-1])
    valid = m.chance(50)
    code = f"torch.randint({n}, (B, {{n}}))" + ("" if valid else ".where(torch.rand(B, {n}) < 0.8, -100)")
    labels = _per_sample(m, rows, "labels", code, shape="-1")
    forms = ["F.cross_entropy({0}, {1})", "F.cross_entropy({0}, {1}, label_smoothing=0.1)"]
    forms += ['F.cross_entropy({0}, {1}, reduction="sum") / ({1} >= 0).sum()']
    forms += ["F.nll_loss(F.log_softmax({0}, 1), {1})"]
    return m.one_of(forms).format(f"{v}.reshape(-1, {n})" if v.rank > 2 else v, labels)


@loss
def uneven(m: Maker, v: Value) -> str:
    """A mean over some samples only."""
    _require(v.rank > 0 and v.dims[0] == m.values[0].dims[0])
    weight = m.input("weight", "(torch.rand(B) < 0.6).double() + 0.1 * torch.arange(B)")
    each = f"{v}.square().flatten(1).mean(1)" if v.rank > 1 else f"{v}.square()"
    return f"({each} * {weight}).sum() / {weight}.sum()"


@loss
def contrastive(m: Maker, v: Value) -> str:
    """Every sample against every other."""
    _require(v.rank >= 2 and v.batch_dims == [0] and v.dims[0] == m.values[0].dims[0])
    flat = f"F.normalize({v}.flatten(1), dim=1)"
    return f"F.cross_entropy({flat} @ {flat}.T / 0.5, torch.arange(B))"


@loss
def binary_entropy(m: Maker, v: Value) -> str:
    target = _per_sample(m, v, "truth", "(torch.rand(B, {n}) < 0.4).double()")
    return f"F.binary_cross_entropy_with_logits({v}, {target})"


@loss
def of_all(m: Maker, v: Value) -> str:
    """A function of the whole value."""
    _require(v.rank > 0)
    return m.one_of(("{0}.logsumexp(0).mean()", "{0}.norm()", "{0}.amax()", "({0}.std() - 1).square()")).format(v)


@loss
def between(m: Maker, v: Value) -> str:
    """A distance of two values."""
    other = m.like(v)
    _require(other != v)
    return m.one_of(("F.mse_loss({0}, {1})", "({0} * {1}.detach()).mean()", "({0} - {1}).abs().mean()")).format(
        v, other
    )


def _per_sample(m: Maker, v: Value, name: str, code: str, shape: str = "") -> str:
    """An input with ``n`` numbers for each sample, in the shape of ``v``."""
    _require(has_batch(v) and sum(dim.power for dim in v.dims) == 1)
    each = math.prod(dim.coefficient for dim in v.dims)
    _require(each.denominator == 1)
    given = m.input(name, code.format(n=each))
    if v.rank == 2 and v.dims[0] == m.values[0].dims[0] and not shape:
        return str(given)
    return f"{given}.reshape({shape or ', '.join(map(str, v.dims))})"


def _require(holds: bool) -> None:
    if not holds:
        raise Unfit
