"""The lowering to Inductor: compiled bodies, and compiled bridges between the loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import GraphModule

from ...ir import torch_api
from ...session.session import Session
from .. import replace_bodies
from .progress import Progress


class InductorLowering:
    """Compiles a program's loops when they first run."""

    draws_by_seed = True

    def __init__(self, session: Session):
        self.session = session

    def decompositions(self) -> Mapping[Any, Callable]:
        """Inductor's table."""
        return torch_api.decompositions()

    def lower(self, program: GraphModule) -> GraphModule:
        """``program`` with its bodies and bridges replaced by compiled ones."""
        from .body import CompiledBody  # imported late: they load Inductor
        from .bridges import compile_bridges

        session, progress = self.session, Progress(self.session.name)
        replace_bodies(program, lambda name, body: CompiledBody(body, name, session, progress))
        return compile_bridges(program, session, progress)
