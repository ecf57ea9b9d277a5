"""A run of a step, with the backward that its caller makes where the step makes none.

Lightning's training step returns its loss, and Lightning calls ``backward()``. `verify` and `explain` do the same, so
that they see gradients too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..ir.torch_api import pytree

Seen = Callable[[torch.Tensor, int], None]


def run(step: Callable, args: tuple, kwargs: Mapping[str, Any], see: Seen = lambda loss, number: None) -> Any:
    """Call a step, and ``see(loss, number)`` at each ``backward()``; returns what the step returned."""
    with _each_backward(see) as losses:
        result = step(*args, **kwargs)
        loss = next(filter(_is_loss, pytree.tree_leaves(result)), None)  # further ones are most often its parts
        if loss is not None and not losses and torch.is_grad_enabled():
            _differentiate(loss)
    return result


def _is_loss(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.grad_fn is not None and value.numel() == 1


def _differentiate(loss: torch.Tensor) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        if "second time" not in str(error):  # the step has called torch.autograd.grad
            raise


@contextmanager
def _each_backward(see: Seen) -> Iterator[list[int]]:
    """Call ``see(loss, number)`` at each backward() in the block; yields the numbers so far.

    `Tensor.backward` looks up `torch.autograd.backward` when it is called: torch 2.11 to 2.15.
    """
    original = torch.autograd.backward
    numbers: list[int] = []

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tensors:
            numbers.append(len(numbers) + 1)
            see(tensor, numbers[-1])
        return original(tensors, *args, **kwargs)

    torch.autograd.backward = backward
    try:
        yield numbers
    finally:
        torch.autograd.backward = original
