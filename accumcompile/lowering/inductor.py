"""The lowering to Inductor: compiled bodies, and compiled bridges between the loops."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from . import replace_bodies
from .body import CompiledBody
from .bridges import compile_bridges
from .progress import Progress


def lower_with_inductor(program: GraphModule, session: Any, granule: int) -> GraphModule:
    """Compile the program's loops when they first run."""
    progress = Progress(session.name)
    replace_bodies(program, lambda name, body: CompiledBody(body, name, session, progress, granule))
    return compile_bridges(program, session, progress)
