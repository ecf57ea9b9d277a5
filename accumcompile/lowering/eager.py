"""The reference lowering: it runs the program uncompiled, and checks the shapes in its bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from ..ir import torch_api
from ..ir.binding import bind
from ..ir.loop import LoopSpec, Split, run_reference
from ..session.session import Session
from . import replace_bodies
from .arguments import check_body


class EagerLowering:
    """Runs a program without compiling it."""

    draws_by_seed = False  # inductor_random, run without Inductor, ignores its seed

    def __init__(self, session: Session):
        """The session is not used."""

    def decompositions(self) -> Mapping[Any, Callable]:
        """Inductor's table, so that either lowering splits the same graph."""
        return torch_api.decompositions()

    def lower(self, program: GraphModule) -> GraphModule:
        """``program`` with its bodies replaced by checked ones."""
        return replace_bodies(program, lambda _, body: CheckedBody(body))


class CheckedBody(torch.nn.Module):
    """An uncompiled body, traced with fake tensors for every new split."""

    def __init__(self, body: GraphModule):
        super().__init__()
        self.body = body
        self.seen: set[Any] = set()

    def run(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> list[torch.Tensor]:
        """Run the loop: see ``accumcompile.ir.loop``."""
        if split not in self.seen:
            holders = self.body.graph.find_nodes(op="placeholder")[2:]
            sizes = bind(holders, [*consts, *xs])
            check_body(self.body, split.row_counts(spec.granule), split.batch, consts, xs, spec.xs, sizes)
            self.seen.add(split)
        return run_reference(self.body, split, consts, xs, spec)
