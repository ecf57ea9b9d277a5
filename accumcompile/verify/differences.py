"""How far one value is from another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch


def rel_diff(expected: Any, actual: Any, scale: float | None = None) -> float:
    """The largest |expected - actual| over the largest |expected|, or over `scale`.

    Equal infinities and NaNs in the same places are no difference; None equals None; a different
    shape is an infinite difference.
    """
    if expected is None or actual is None:
        return 0.0 if expected is actual else math.inf
    a, b = wide(expected), wide(actual)
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    furthest = torch.where(same, 0.0, (a - b).abs()).max().item()
    if furthest == 0.0:
        return 0.0
    scale = largest([a]) if scale is None else scale
    return furthest / scale if scale > 0 and math.isfinite(furthest) else math.inf


def largest(values: Iterable[Any]) -> float:
    """The largest finite |value|."""
    most = 0.0
    for value in values:
        sizes = torch.zeros(0) if value is None else wide(value).abs()
        sizes = sizes[sizes.isfinite()]
        most = max(most, sizes.max().item() if sizes.numel() else 0.0)
    return most


def wide(value: Any) -> torch.Tensor:
    """`value` as a dense tensor in double precision, in main memory."""
    tensor = torch.as_tensor(value).detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
