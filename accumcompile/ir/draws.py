"""Random numbers for one micro-batch that equal the full batch's, element for element.

Inductor computes ``inductor_random(size, seed)`` as rand(seed, index): a function of the element's index in
the tensor. The operators here use the index in the *full* tensor: the local index, shifted along the sliced
dimension. Seeds are drawn once per step, so any number of micro-batches, and any recomputation, sees the
same values.

``slice_op`` emits the operator into a body. Among its arguments, ``start`` is a 0-dim int64 tensor: the index,
along ``dim`` of the full tensor, of this micro-batch's first element.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

from . import (
    philox,
    torch_api,  # noqa: F401  (registers prims.inductor_random)
)
from .operands import shape_of
from .sizes import unfolded

prims = torch.ops.prims


def slice_op(body: Any, node: Node, args: Sequence, kwargs: dict, offset: Node) -> Node:
    """Emit into ``body`` the micro-batch's slice of the draw ``node``; the slice begins at ``offset``."""
    placement, full, local = body.placement(node), shape_of(node) or (), body.shape(node)
    dim = placement.dim
    if placement.outer != 1:
        full, local, dim = unfolded(full, placement), unfolded(local, placement), dim + 1
    where = body.sizes(local), body.sizes(full), dim, offset
    drawn = body.call(SLICES[node.target], slice_args(node.target, args, where), like=node)
    if placement.outer == 1:
        return drawn
    return body.call(torch.ops.aten.reshape.default, (drawn, body.sizes(body.shape(node))), like=node)


def slice_args(target: Any, args: Sequence, where: tuple) -> tuple:
    """The arguments of ``SLICES[target]``: ``where`` is (local size, full size, dim, start)."""
    if target is prims.inductor_randint.default:
        low, high, _, seed = args
        return (low, high, *where, seed)
    _, seed, mode = args
    return (*where, seed, mode)


def whole_args(target: Any, args: Sequence, start: Any) -> tuple:
    """The arguments with which ``SLICES[target]`` draws the whole tensor; ``start`` is a zero."""
    size = args[0] if target is prims.inductor_random.default else args[2]
    return slice_args(target, args, (size, size, 0, start))


# --- operators


def _indices(size, full_size, dim, start):
    """The index in the full tensor of each element of a slice."""
    index = torch.zeros([1] * len(size), dtype=torch.int64, device=start.device)
    for d, (local, stride) in enumerate(zip(size, _contiguous_strides(full_size), strict=True)):
        along = torch.arange(local, device=start.device) + (start if d == dim else 0)
        index = index + (along * stride).reshape([-1 if i == d else 1 for i in range(len(size))])
    return index


def _contiguous_strides(size):
    return [math.prod(size[d + 1 :]) for d in range(len(size))]


def _eager_random(size, full_size, dim, start, seed, mode):
    return getattr(philox, mode)(seed, _indices(size, full_size, dim, start.to(seed.device)))


def _eager_randint(low, high, size, full_size, dim, start, seed):
    return philox.randint(seed, _indices(size, full_size, dim, start.to(seed.device)), low, high)


def _lowering_hash() -> str:
    """A hash of our lowerings for operator names, which Inductor's disk cache sees; it does not see the lowerings."""
    return hashlib.sha256(
        (Path(__file__).parents[1] / "lowering" / "inductor" / "random_draws.py").read_bytes()
    ).hexdigest()[:12]


def _define(name: str, schema: str, eager: Any, dtype: torch.dtype, size_at: int) -> Any:
    """Register an operator: its schema, its eager implementation, and its fake implementation."""
    unique = f"accumcompile::{name}_{_lowering_hash()}"
    torch.library.define(unique, schema)
    torch.library.impl(unique, "CompositeExplicitAutograd", eager)

    @torch.library.register_fake(unique)
    def fake(*args: Any) -> torch.Tensor:
        return torch.empty(args[size_at], dtype=dtype, device=args[size_at + 4].device)

    return getattr(torch.ops.accumcompile, unique.split("::")[1]).default


_WHERE = "SymInt[] size, SymInt[] full_size, int dim, Tensor start, Tensor seed"
random_slice = _define("random_slice", f"({_WHERE}, str mode) -> Tensor", _eager_random, torch.float32, 0)
randint_slice = _define(
    "randint_slice", f"(SymInt low, SymInt high, {_WHERE}) -> Tensor", _eager_randint, torch.int64, 2
)

SLICES: dict[Any, Any] = {
    prims.inductor_random.default: random_slice,
    prims.inductor_randint.default: randint_slice,
}
