"""Custom operators that a rewritten graph may contain."""

from __future__ import annotations

import torch

_library = torch.library.Library("accumcompile", "FRAGMENT")
_library.define("moments(Tensor x, int[] dims) -> Tensor")


@torch.library.impl(_library, "moments", "CompositeImplicitAutograd")
def _moments(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    """(count, mean, M2) over ``dims``, which are kept with size 1, stacked along a new first dimension."""
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    count = 1
    for d in dims:
        count *= x.shape[d]
    return torch.stack([torch.ones_like(mean) * count, mean, variance * count])


moments = torch.ops.accumcompile.moments.default
