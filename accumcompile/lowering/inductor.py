"""The lowering to Inductor: compiled bodies, and compiled bridges between the loops."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from . import replace_bodies
from .body import CompiledBody
from .bridges import compile_bridges
from .progress import Progress


def lower_with_inductor(program: GraphModule, settings: Any, granule: int) -> GraphModule:
    """Compile the program's loops when they first run."""
    progress = Progress(settings.name)
    replace_bodies(program, lambda name, body: CompiledBody(body, name, settings, progress, granule))
    return compile_bridges(program, settings, progress)
