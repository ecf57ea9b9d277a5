"""A loss that a step returns, for its caller to differentiate: Lightning calls ``backward()`` itself.

A node of the autograd graph lives as long as the loss, or what is computed of it, can be differentiated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from .batch.arguments import tensors

_DONE = "accumcompile differentiated"  # in a node's metadata


def losses(result: Any) -> list[torch.Tensor]:
    """The tensors among a step's results that can be differentiated."""
    return [t for _, t, _ in tensors("returned", result) if t.grad_fn is not None]


def mark_differentiated(roots: Iterable[Any]) -> None:
    """Remember that gradients of ``roots``, tensors, were added."""
    for node in (root.grad_fn for root in roots):
        if node is not None:
            node.metadata[_DONE] = True


def is_differentiated(loss: Any) -> bool:
    """Whether gradients of ``loss``, a tensor, were added before."""
    return loss.grad_fn is not None and _DONE in loss.grad_fn.metadata


@dataclass(eq=False)
class Returned:
    """What became of the losses that a step has returned.

    differentiated: one of them was, so the caller knows what it does.
    forgotten: one of them was let go before that.
    """

    differentiated: bool = False
    forgotten: bool = False

    def watch(self, losses: Iterable[torch.Tensor]) -> None:
        """Learn what becomes of ``losses``."""
        for loss in () if self.differentiated else losses:
            loss.grad_fn.register_prehook(_Witness(self))  # type: ignore[union-attr]

    @property
    def dropped(self) -> bool:
        """Whether the caller lets losses go and has never differentiated one."""
        return self.forgotten and not self.differentiated


class _Witness:
    """A hook on a loss's autograd node, which alone keeps it: it ends with the graph."""

    def __init__(self, returned: Returned) -> None:
        self.returned = returned

    def __call__(self, gradients: Any) -> None:
        self.returned.differentiated = True

    def __del__(self) -> None:
        self.returned.forgotten = True
