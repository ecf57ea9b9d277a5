"""Converting a step's state to float64, in place: the reference for lower precisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from accumcompile.verify.reach import Reachable
from accumcompile.verify.snapshot import Snapshot

from ..ir.torch_api import is_traceable_wrapper_subclass

WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")


class NoReferenceError(Exception):
    """Why there is no float64 reference."""


@contextmanager
def in_float64(snapshot: Snapshot) -> Iterator[None]:
    """Convert every floating tensor that the snapshot holds; `snapshot.restore()` converts them back.

    Code that names a dtype explicitly still uses it; autocast leaves float64 alone.
    """
    _convert(snapshot)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _convert(snapshot: Snapshot) -> None:
    tensors = snapshot.tensors()
    for each in snapshot.reachable.values():
        # These keep hooks on autograd's accumulation nodes, which a change of dtype recreates.
        if any(cls.__name__ in WRAPPERS for cls in type(each.value).__mro__):
            raise NoReferenceError(f"{each.path} is wrapped in {type(each.value).__name__}")
    if any(is_traceable_wrapper_subclass(each.value) for each in tensors):
        raise NoReferenceError("tensors of a subclass keep their dtype")
    scalers = [vars(each.value).values() for each in snapshot.reachable.values() if _is_scaler(each.value)]
    keep = {id(value) for values in scalers for value in values}
    gradients = [(each.value, each.value.grad) for each in tensors if each.value.is_leaf]
    storages: dict[tuple[int, torch.dtype], torch.Tensor] = {}
    for tensor, _ in gradients:
        tensor.grad = None
    for each in tensors:
        if _converts(each) and id(each.value) not in keep:
            each.value.data = widened(each.value.data, storages)
    for tensor, grad in gradients:
        tensor.grad = grad


def _is_scaler(value: object) -> bool:
    return isinstance(value, torch.amp.GradScaler)


def _converts(item: Reachable) -> bool:
    """Whether it is a floating-point leaf below float64, and not an optimizer's step count."""
    tensor = item.value
    counts = item.kind == "optimizer state" and item.path.endswith(".step")
    floating = tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.layout is torch.strided
    return floating and tensor.is_leaf and not counts and not tensor.is_meta


def widened(tensor: torch.Tensor, storages: dict[tuple[int, torch.dtype], torch.Tensor]) -> torch.Tensor:
    """`tensor` in float64; tensors that shared memory share it afterwards."""
    storage = tensor.untyped_storage()
    if storage.data_ptr() == 0:
        return tensor.double()
    key = (storage.data_ptr(), tensor.dtype)
    if key not in storages:
        count = storage.nbytes() // tensor.itemsize
        storages[key] = tensor.as_strided((count,), (1,), 0).double()
    return storages[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
