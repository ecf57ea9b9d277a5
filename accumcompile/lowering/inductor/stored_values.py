"""Inductor's lowering of ``ir.stored``. The names used here are private to torch; checked on 2.11, 2.13 and 2.15."""

from __future__ import annotations

from torch._inductor.ir import TensorBox
from torch._inductor.lowering import register_lowering

from ...ir.stored import stored


@register_lowering(stored, type_promotion_kind=None)
def _lower_stored(x: TensorBox) -> TensorBox:
    """The value in a buffer, which all its readers load."""
    x.realize()
    return x
