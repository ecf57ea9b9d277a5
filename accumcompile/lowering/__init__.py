"""From a program that runs as it stands to one that runs fast: what that is asked for is in ``lowerings``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule

from ..ir.loop import loops_in


def replace_bodies(program: GraphModule, replacement: Callable[[str, GraphModule], torch.nn.Module]) -> GraphModule:
    """Put ``replacement(name, body)`` in the place of each loop's body."""
    for name, _ in loops_in(program):
        body = program.get_submodule(name)
        if isinstance(body, GraphModule):
            program.set_submodule(name, replacement(name, body))
    return program
