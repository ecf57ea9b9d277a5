"""Whether the full batch itself decides its answer: a step whose result hangs on rounding can equal nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# What rounds differently for other shapes and orders of summation.
ROUNDS = {
    *(aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.convolution, aten.convolution_backward),
    *(aten.sum, aten.mean, aten.var, aten.std, aten.var_mean, aten.linalg_vector_norm, aten.logsumexp),
    *(aten.cumsum, aten.logcumsumexp, aten._softmax, aten._log_softmax),
    *(aten.native_layer_norm, aten.native_batch_norm, aten.native_group_norm, aten.embedding_dense_backward),
    *(aten.index_add, aten.scatter_add, aten.exp, aten.tanh, aten.sigmoid, aten.log1p, aten.gelu, aten.silu),
    *(aten.sin, aten.cos, aten.atan, aten.erf, aten.softplus, aten.pow, aten.rsqrt, aten.logaddexp, aten.div),
}
JUMPS = {aten.sort, aten.topk, aten.argmax, aten.max}  # by the order of values along a dimension
NOISE, GAP = 1e-14, 1e-9


class Tied(Exception):
    """Two values are so near that rounding decides which of them is larger."""


class Rounding(TorchDispatchMode):
    """Every operator that rounds, rounds a little worse; values that are put in order must lie apart."""

    def __init__(self, seed: int, noise: float = NOISE):
        super().__init__()
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        packet = func.overloadpacket
        if packet in JUMPS and func is not aten.max.other:
            _require_gaps(func, args)
        if packet not in ROUNDS:
            return func(*args, **(kwargs or {}))
        # A sum of numbers that cancel rounds as its operands do, and not as its result.
        result = func(self._noisy(args[0]), *args[1:], **(kwargs or {}))
        return torch.utils._pytree.tree_map(self._noisy, result)

    def _noisy(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float64:
            return x
        return x * (1 + self.noise * torch.randn(x.shape, generator=self.generator, dtype=x.dtype))


def _require_gaps(func: Any, args: tuple) -> None:
    x, dim = args[0], _dim(func, args)
    if not x.is_floating_point() or x.numel() < 2:
        return
    ordered = (x.flatten() if dim is None else x.movedim(dim, -1)).sort(-1).values
    gaps = ordered.diff(dim=-1)
    if gaps.numel() and gaps.min() < GAP * x.abs().max():
        raise Tied


def _dim(func: Any, args: tuple) -> int | None:
    names = [argument.name for argument in func._schema.arguments]
    place = names.index("dim") if "dim" in names else None
    if place is None:
        return None
    return args[place] if place < len(args) else func._schema.arguments[place].default_value
