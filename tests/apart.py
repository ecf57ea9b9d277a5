"""A lowering whose loops round apart: each computes on a grid of its own, as kernels that are compiled apart do.

Within a loop equal values stay equal, and a maximum stays equal to one of its operands; what two loops compute of the
same operands differs in its last bits almost everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from accumcompile.ir.loop import LoopSpec, Split, run_reference
from accumcompile.lowering import replace_bodies
from accumcompile.lowering.eager import EagerLowering
from accumcompile.lowering.node_by_node import Plain
from accumcompile.rules.table import keeps_elements
from accumcompile.session.session import Session

NAME = "apart"
GRIDS = 16  # each holds every sixteenth number
FINE = (1 << 34) - 1  # the last two thirds of a fraction


class Apart:
    """Runs every loop of a program on the next grid."""

    draws_by_seed = False

    def __init__(self, session: Session):
        self.eager, self.loops = EagerLowering(session), 0

    def decompositions(self) -> Mapping[Any, Callable]:
        return self.eager.decompositions()

    def lower(self, program: GraphModule) -> GraphModule:
        return replace_bodies(program, self._on_the_next_grid)

    def _on_the_next_grid(self, _: str, body: GraphModule) -> torch.nn.Module:
        self.loops += 1
        return OnGrid(body, self.loops % GRIDS)


class OnGrid(torch.nn.Module):
    """A body whose operators round down to one grid."""

    def __init__(self, body: GraphModule, grid: int):
        super().__init__()
        self.body, self.grid = body, grid

    def run(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> list[torch.Tensor]:
        return run_reference(self._one, split, consts, xs, spec)

    def _one(self, *args: Any) -> list[torch.Tensor]:
        return Rounded(self.body, self.grid).values(*args)


class Rounded(Plain):
    """Runs a graph with every value that an operator rounds rounded down to a grid."""

    def __init__(self, graph: GraphModule, grid: int):
        super().__init__(graph)
        self.grid = grid

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return pytree.tree_map_only(torch.Tensor, self._rounded, value) if _rounds(n) else value

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float64:
            return x
        word = x.contiguous().view(torch.int64)
        down = ((word - self.grid) & -GRIDS) + self.grid
        few_bits = word & FINE == 0  # 0, 1, a count: exact in any code
        return torch.where(few_bits | ~x.isfinite(), x, down.view(x.dtype))


def _rounds(node: Node) -> bool:
    """Whether an operator computes new numbers: what it moves or selects is as it was."""
    return node.op == "call_function" and not keeps_elements(node)
