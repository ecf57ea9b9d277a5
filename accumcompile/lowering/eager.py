"""The reference lowering: the program as it stands, without a compiler; shapes in its bodies are checked."""

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
    """Runs a program as it stands."""

    draws_by_seed = False  # inductor_random, run without Inductor, ignores its seed

    def __init__(self, session: Session):
        """Nothing of the session is needed."""

    def decompositions(self) -> Mapping[Any, Callable]:
        """Inductor's: what is split is the same under either lowering."""
        return torch_api.decompositions()

    def lower(self, program: GraphModule) -> GraphModule:
        """``program``, its bodies replaced by what checks them."""
        granule = int(program.meta.get("granule", 1))
        return replace_bodies(program, lambda _, body: CheckedBody(body, granule))


class CheckedBody(torch.nn.Module):
    """A plain body, traced with fake tensors whenever a batch is cut in a new way."""

    def __init__(self, body: GraphModule, granule: int = 1):
        super().__init__()
        self.body, self.granule = body, granule
        self.seen: set[Any] = set()

    def run(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> list[torch.Tensor]:
        """The loop: see ``accumcompile.ir.loop``."""
        if split not in self.seen:
            holders = self.body.graph.find_nodes(op="placeholder")[2:]
            rows = dict.fromkeys([split.rows, self.granule, split.tail or split.rows])
            sizes = bind(holders, [*consts, *xs])
            check_body(self.body, list(rows), split.batch, consts, xs, spec.xs, sizes)
            self.seen.add(split)
        return run_reference(self.body, split, consts, xs, spec)
