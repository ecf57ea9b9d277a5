"""The table of ops: a generator each, which draws its operands and yields the code of one line."""

from __future__ import annotations

from collections.abc import Callable

from .maker import Maker, Value

OPS: dict[str, tuple[Callable[[Maker], str], int]] = {}  # name -> generator, weight

SMOOTH = (
    "torch.tanh({0})",
    "F.gelu({0})",
    "torch.sigmoid({0})",
    "torch.sin({0})",
    "F.silu({0})",
    "F.softplus({0})",
    "torch.exp(-{0}.square())",
    "torch.log1p({0}.square())",
    "torch.sqrt(1 + {0}.square())",
    "1 / (1 + {0}.square())",
    "torch.atan({0})",
    "torch.erf({0})",
    "0.5 * {0} + 1",
    "{0}.pow(3)",
)
KINKED = (
    "torch.relu({0})",
    "{0}.abs()",
    "F.leaky_relu({0}, 0.1)",
    "{0}.clamp(-1, 1)",
    "F.elu({0})",
    "torch.where({0} > 0, {0}, 0.2 * {0})",
    "{0}.sign() * {0}.square()",
    "{0} - {0}.detach().round()",
    "F.hardswish({0})",
)
BINARY = (
    "{0} + {1}",
    "{0} * {1}",
    "{0} - {1}",
    "{0} / (1 + {1}.square())",
    "torch.maximum({0}, {1})",
    "torch.minimum({0}, {1})",
    "torch.where({0} > {1}, {0}, 0.5 * {1})",
    "torch.logaddexp({0}, {1})",
    "torch.lerp({0}, {1}, 0.3)",
    "torch.atan2({0}, 2 + {1}.square())",
    "{0} * ({1} > 0)",
)
REDUCTIONS = ("sum", "mean", "amax", "amin", "logsumexp")


def op(weight: int = 2) -> Callable[[Callable[[Maker], str]], Callable[[Maker], str]]:
    """Enter a generator in the table."""

    def enter(generator: Callable[[Maker], str]) -> Callable[[Maker], str]:
        OPS[generator.__name__] = generator, weight
        return generator

    return enter


def broadcasts(a: Value, b: Value) -> bool:
    """Whether two values may meet in a pointwise op."""
    one = (1, 0)
    pairs = zip(a.dims[::-1], b.dims[::-1], strict=False)
    return all(x == y or one in ((x.coefficient, x.power), (y.coefficient, y.power)) for x, y in pairs)


def has_batch(v: Value) -> bool:
    return bool(v.batch_dims)


def ends_plain(v: Value) -> bool:
    """The last dimension is of features."""
    return v.rank > 1 and v.rank - 1 in v.plain_dims


# --- pointwise


@op(5)
def smooth(m: Maker) -> str:
    return m.one_of(SMOOTH).format(m.value())


@op(4)
def kinked(m: Maker) -> str:
    return m.one_of(KINKED).format(m.value())


@op(6)
def binary(m: Maker) -> str:
    a = m.value()
    b = m.value(lambda v: broadcasts(a, v))
    return m.one_of(BINARY).format(a, b)


@op()
def with_parameter(m: Maker) -> str:
    v = m.value(ends_plain)
    return m.one_of(("{0} * {1}", "{0} + {1}", "torch.maximum({0}, {1})")).format(v, m.parameter(v.size(-1)))


@op(1)
def pairwise(m: Maker) -> str:
    v, d = m.value(lambda v: 0 < v.rank <= 2), None
    d = m.dim(v)
    return f"{m.one_of(('torch.tanh', 'torch.abs'))}({v}.unsqueeze({d}) - {v}.unsqueeze({d + 1}))"


# --- products


@op(6)
def linear(m: Maker) -> str:
    v = m.value(ends_plain)
    k, n = v.size(-1), m.one_of((16, 8, 24, 3))
    w = m.parameter(n, k, scale=f" / {k}**0.5")
    bias = f", {m.parameter(n)}" if m.chance(50) else ""
    return f"F.linear({v}, {w}{bias})"


@op(3)
def matmul_parameter(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 1 and any(d in v.plain_dims for d in (v.rank - 1, v.rank - 2)))
    d = m.one_of([d for d in (v.rank - 1, v.rank - 2) if d in v.plain_dims])
    k = v.size(d)
    if d == v.rank - 1:
        return f"{v} @ {m.parameter(k, 12, scale=f' / {k}**0.5')}"
    return f"{m.parameter(6, k, scale=f' / {k}**0.5')} @ {v}"


@op(2)
def matmul(m: Maker) -> str:
    """Two values, contracted over whatever dimension they share: also the batch."""
    a = m.value(lambda v: v.rank >= 2)
    b = m.value(lambda v: v.rank >= 2 and v.dims[:-2] == a.dims[:-2] and v.dims[-2] == a.dims[-1])
    return f"{a} @ {b}"


@op(3)
def gram(m: Maker) -> str:
    a = m.value(lambda v: v.rank >= 2)
    b = m.like(a)
    return m.one_of((f"{a} @ {b}.transpose(-1, -2)", f"{a}.transpose(-1, -2) @ {b}"))


@op(2)
def bmm(m: Maker) -> str:
    a = m.value(lambda v: v.rank == 3)
    b = m.value(lambda v: v.rank == 3 and v.dims[0] == a.dims[0] and v.dims[2] == a.dims[2])
    return f"torch.bmm({a}, {b}.transpose(1, 2))"


@op(1)
def einsum(m: Maker) -> str:
    a = m.value(lambda v: v.rank == 3)
    return f'torch.einsum("{m.one_of(("abc,adc->abd", "abc,abd->acd", "abc,dbc->ad"))}", {a}, {m.like(a)})'


@op(1)
def attention(m: Maker) -> str:
    v = m.value(lambda v: v.rank == 3 and not v.dims[2].batch)
    return f"F.scaled_dot_product_attention({v}, {m.like(v)}, {v})"


@op(1)
def conv(m: Maker) -> str:
    v = m.value(lambda v: v.rank == 3 and v.batch_dims == [0])
    w = m.parameter(6, v.size(1), 3, scale=f" / {3 * v.size(1)}**0.5")
    return f"F.conv1d({v}, {w}, padding=1)"


# --- reductions, and what mixes one dimension


@op(6)
def reduce(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    keep = ", keepdim=True" if m.chance(60) else ""
    return f"{v}.{m.one_of(REDUCTIONS)}({_spelled(m.dims(v))}{keep})"


@op(2)
def spread(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 1)
    kind = m.one_of(("var", "std"))
    correction = m.one_of((", correction=0", ""))
    return f"({v}.{kind}({_spelled(m.dims(v))}{correction}, keepdim=True) + 0.1)"


@op(1)
def norm(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    return m.one_of(
        (f"{v}.norm(dim={_spelled(m.dims(v))}, keepdim=True)", f"F.normalize({v}, dim={m.dim(v)})", f"{v}.norm()")
    )


@op(3)
def softmax(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    return f"{m.one_of(('torch.softmax', 'torch.log_softmax'))}({v}, {m.dim(v)})"


@op(2)
def cumulative(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    return m.one_of(("torch.cumsum({0}, {1})", "torch.logcumsumexp({0}, {1})")).format(v, m.dim(v))


def _spelled(dims: list[int]) -> str:
    return str(dims[0]) if len(dims) == 1 else str(tuple(dims))


# --- statistics of the batch, and normalisations


@op(3)
def against_statistic(m: Maker) -> str:
    v = m.value(has_batch)
    d = m.one_of(v.batch_dims)
    forms = (
        "{0} - {0}.mean({1}, keepdim=True)",
        "{0} / (0.1 + {0}.abs().mean({1}, keepdim=True))",
        "{0} - {0}.amax({1}, keepdim=True)",
        "{0} * torch.softmax({0}, {1})",
        "({0} - {0}.mean()) / ({0}.std() + 0.1)",
        "{0} * ({0} > {0}.mean({1}, keepdim=True))",
    )
    return m.one_of(forms).format(v, d)


@op(2)
def standardise(m: Maker) -> str:
    v = m.value(has_batch)
    dims = _spelled(sorted({m.one_of(v.batch_dims), *(m.dims(v) if m.chance(30) else [])}))
    return f"({v} - {v}.mean({dims}, keepdim=True)) / ({v}.var({dims}, keepdim=True) + 0.1).sqrt()"


@op(3)
def layer_norm(m: Maker) -> str:
    v = m.value(ends_plain)
    n = v.size(-1)
    affine = f", {m.parameter(n)}, {m.parameter(n)}" if m.chance(50) else ""
    return f"F.layer_norm({v}, ({n},){affine})"


@op(2)
def batch_norm(m: Maker) -> str:
    v = m.value(lambda v: v.rank in (2, 3) and v.dims[0].batch and 1 in v.plain_dims)
    momentum = m.one_of(("", ", affine=False", ", momentum=0.3"))
    return f"{m.module(f'nn.BatchNorm1d({v.size(1)}{momentum})')}({v})"


@op(1)
def group_norm(m: Maker) -> str:
    v = m.value(lambda v: v.rank >= 2 and v.batch_dims == [0] and v.size(1) % 2 == 0)
    return f"F.group_norm({v}, 2)"


@op(1)
def rms_norm(m: Maker) -> str:
    v = m.value(lambda v: v.rank > 0)
    return f"{v} * torch.rsqrt({v}.square().mean({m.dim(v)}, keepdim=True) + 0.1)"
