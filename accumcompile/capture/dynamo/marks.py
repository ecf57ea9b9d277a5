"""Marks on the user's tensors: which of their sizes Dynamo shall make symbols. Checked in torch 2.11, 2.13 and 2.15.

They are removed after every call, so the user's own compiled functions never see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._dynamo import decorators
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def _inner_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    yield tensor
    if is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _inner_tensors(getattr(tensor, name))


def _marks(tensor: torch.Tensor) -> dict[str, Any]:
    """Dynamo's attributes on a tensor, as they are now."""
    marks = {k: v for k, v in vars(tensor).items() if k.startswith(("_dynamo_", "_has_dynamo_", "_specialize_on"))}
    return {k: v.copy() if isinstance(v, (set, dict)) else v for k, v in marks.items()}


def _restore(tensor: torch.Tensor, before: dict[str, Any]) -> None:
    for name in _marks(tensor).keys() - before.keys():
        delattr(tensor, name)
    vars(tensor).update(before)


def mark(tensor: torch.Tensor, dim: int) -> Callable[[], None]:
    """Mark ``dim`` to have a symbolic size; returns a function that removes the mark."""
    before = [(t, _marks(t)) for t in _inner_tensors(tensor)]
    decorators.maybe_mark_dynamic(tensor, dim)

    def unmark() -> None:
        for t, marks in before:
            _restore(t, marks)

    return unmark


def unmark(tensor: torch.Tensor) -> None:
    """Remove the marks of ``mark`` on a tensor; whoever set them puts back what was there before."""
    for t in _inner_tensors(tensor):
        for name in _marks(t):
            delattr(t, name)


@contextmanager
def marked(dims: Iterable[tuple[torch.Tensor, int]]) -> Iterator[None]:
    """Within the block, the user's tensors are marked along ``dims``."""
    with ExitStack() as stack:
        for tensor, dim in dims:
            stack.callback(mark(tensor, dim))
        yield
