"""Torch operators whose kernels make a symbolic size a constant, rewritten so that it stays symbolic.

These are Python kernels, which tracing prefers to the C++ ones; they serve every capture in this process, and compute
equal values. Checked on torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import torch
from torch._C import DispatchKey

aten = torch.ops.aten
_FILL_DIAGONAL = aten.fill_diagonal_.default
_COMPOSITE = DispatchKey.CompositeImplicitAutograd


def register() -> None:
    """Register the kernels that torch itself lacks."""
    if _COMPOSITE not in _FILL_DIAGONAL.py_kernels:
        _FILL_DIAGONAL.py_impl(_COMPOSITE)(_fill_diagonal)


def _fill_diagonal(x: torch.Tensor, fill_value: float, wrap: bool = False) -> torch.Tensor:
    if x.dim() != 2 or wrap:
        return _FILL_DIAGONAL._op_dk(_COMPOSITE, x, fill_value, wrap)
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return x.masked_fill_(rows[:, None] == columns, fill_value)
