"""Lowerings turn a program into one that runs faster; ``session/lowerings.py`` declares their interface."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import GraphModule

from ..ir.loop import loops_in


def replace_bodies(program: GraphModule, replacement: Callable[[str, GraphModule], torch.nn.Module]) -> GraphModule:
    """Replace each loop's body by ``replacement(name, body)``."""
    for name, _ in loops_in(program):
        body = program.get_submodule(name)
        if isinstance(body, GraphModule):
            program.set_submodule(name, replacement(name, body))
    return program
