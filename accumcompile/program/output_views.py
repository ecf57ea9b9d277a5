"""Outputs of a graph that are views of another output, as the chunks of a projection are where both are used later.

AOTAutograd takes only their metadata, and makes the views anew of the output that owns the memory. So they need not be
assembled; but their storage offset counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from ..ir.binding import Binding, number
from ..ir.operands import is_tensor, is_view, outputs
from ..ir.placement import Size
from ..ir.sizes import expression


@dataclass(frozen=True)
class OutputView:
    """An output at ``position`` that is a view of the one at ``owner``: its shape, strides and offset, in elements."""

    position: int
    owner: int
    dtype: torch.dtype
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size

    def of(self, results: Sequence[torch.Tensor], sizes: Binding) -> torch.Tensor:
        """The memory of the owner as this output, given the values of the symbols; for autograd, it is no view."""
        owner = results[self.owner]
        shape, strides = (tuple(number(size, sizes) for size in each) for each in (self.shape, self.strides))
        view = torch.empty(0, dtype=self.dtype, device=owner.device)
        return view.set_(owner.untyped_storage(), number(self.offset, sizes), shape, strides)


def output_views(gm: GraphModule) -> Iterator[OutputView]:
    """The outputs of ``gm`` that are views of another, which is itself none."""
    results = outputs(gm)
    positions = {node: i for i, node in reversed(list(enumerate(results))) if isinstance(node, Node)}
    for position, node in enumerate(results):
        owners = [n for n in memory_of(node)[1:] if n in positions] if is_tensor(node) else []
        if owners and _begins_its_memory(owners[-1]) and not _is_lazy(node):
            yield _view(position, positions[owners[-1]], node.meta["val"])


def memory_of(node: Node) -> list[Node]:
    """A value and the values that it may be a view of, down to the one that owns the memory."""
    chain = [node]
    while is_view(chain[-1]):
        chain.append(chain[-1].all_input_nodes[0])
    return chain


def _view(position: int, owner: int, value: torch.Tensor) -> OutputView:
    shape, strides = (tuple(expression(size) for size in each) for each in (value.shape, value.stride()))
    return OutputView(position, owner, value.dtype, shape, strides, expression(value.storage_offset()))


def _begins_its_memory(node: Node) -> bool:
    """Whether the first element of a value is the first of its memory, here and where a program assembles it."""
    return is_tensor(node) and node.op == "call_function" and expression(node.meta["val"].storage_offset()) == 0


def _is_lazy(node: Node) -> bool:
    """Whether a view is marked as conjugated or negated."""
    return node.meta["val"].is_conj() or node.meta["val"].is_neg()
