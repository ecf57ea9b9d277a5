"""More of the table: buffers that a step changes in place, as running statistics are."""

from __future__ import annotations

from .maker import Maker, Value
from .ops import op

# What becomes of a buffer {0} when it sees {1}, a statistic of its own shape.
CHANGES = (
    "{0}.lerp_({1}, 0.1)",
    "{0}.mul_(0.9).add_({1}, alpha=0.1)",
    "{0}.copy_({1})",
    "{0}.copy_(torch.maximum({0}, {1}))",
)
STATISTICS = ("mean", "sum", "amax")


@op(3)
def running(m: Maker) -> str:
    """A buffer follows a statistic of the batch; the step goes on with the buffer, or with the value alone."""
    v = m.value(lambda v: v.batch_dims == [0])
    statistic, sizes = m.one_of((("{0}.detach().{1}(0)", v.dims[1:]), ("{0}.detach().{1}()", ())))
    buffer = _buffer(m, f"torch.zeros({_shape(sizes)})")
    changed = m.one_of(CHANGES).format(buffer, statistic.format(v, m.one_of(STATISTICS)))
    return _used(m, changed, v)


@op(1)
def counted(m: Maker) -> str:
    """A buffer counts samples."""
    v = m.value(lambda v: 0 in v.batch_dims)
    buffer = _buffer(m, "torch.ones((), dtype=torch.long)")
    return _used(m, f"{buffer}.add_({v}.shape[0])", v)


def _buffer(m: Maker, code: str) -> str:
    return m.module(f"nn.Buffer({code})", "b")


def _shape(sizes: tuple) -> str:
    return f"({', '.join(map(str, sizes))}{',' if sizes else ''})"


def _used(m: Maker, changed: str, v: Value) -> str:
    return m.one_of((f"({v} * 0.5, {changed})[0]", f"{v} - 0.1 * {changed}"))
