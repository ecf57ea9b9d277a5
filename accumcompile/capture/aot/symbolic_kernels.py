"""Torch operators whose kernels make a symbolic size a constant, rewritten so that it stays symbolic.

These are Python kernels, which tracing prefers to the C++ ones; they serve every capture in this process, and compute
equal values. Checked on torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C import DispatchKey

from ...ir.torch_api import OpOverload

aten = torch.ops.aten
_FILL_DIAGONAL = aten.fill_diagonal_.default
_CROSS_ENTROPY = aten.cross_entropy_loss.default
_COMPOSITE = DispatchKey.CompositeImplicitAutograd
_MEAN, _SUM = 1, 2  # at::Reduction


def register() -> None:
    """Register the kernels that torch itself lacks."""
    for op, kernel in _kernels().items():
        if _COMPOSITE not in op.py_kernels:
            op.py_impl(_COMPOSITE)(kernel)


def _kernels() -> dict[OpOverload, Callable[..., torch.Tensor]]:
    kernels: dict[OpOverload, Callable[..., torch.Tensor]] = {_FILL_DIAGONAL: _fill_diagonal}
    if torch.__version__ < "2.13":  # a TorchVersion, which compares as versions do
        kernels[_CROSS_ENTROPY] = _cross_entropy
    return kernels


def _fill_diagonal(x: torch.Tensor, fill_value: float, wrap: bool = False) -> torch.Tensor:
    if x.dim() != 2 or wrap:
        return _FILL_DIAGONAL._op_dk(_COMPOSITE, x, fill_value, wrap)
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return x.masked_fill_(rows[:, None] == columns, fill_value)


def _cross_entropy(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    reduction: int = _MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The same as ATen's ``cross_entropy_loss_prob_target``, for targets that are probabilities."""
    dim = min(x.dim() - 1, 1)
    is_ours = target.is_floating_point() and 0 < x.dim() == target.dim() and x.shape == target.shape
    fits = weight is None or (is_ours and weight.shape == x.shape[dim : dim + 1])
    if not is_ours or not fits or ignore_index >= 0 or label_smoothing > 1:
        return _CROSS_ENTROPY._op_dk(_COMPOSITE, x, target, weight, reduction, ignore_index, label_smoothing)
    classes = x.shape[dim]
    if label_smoothing > 0:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    loss = -torch.log_softmax(x, dim) * target
    if weight is not None:
        loss = loss * weight.reshape([classes if d == dim else 1 for d in range(x.dim())])
    if reduction == _MEAN:
        return loss.sum() / (x.numel() / classes)
    return loss.sum() if reduction == _SUM else loss.sum(dim)
