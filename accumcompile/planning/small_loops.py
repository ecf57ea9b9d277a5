"""Runs loops that are small compared with the largest as one micro-batch: splitting them would save little."""

from __future__ import annotations

from dataclasses import replace

from torch.fx import Node

from ..propagation.cost import bytes_of
from ..rules.table import rule_of
from .schedule import Loop, Schedule

_SMALL = 256  # a loop this many times smaller than the largest is not worth splitting


def run_small_at_once(plan: Schedule) -> Schedule:
    """Mark the small loops whose values, their roots aside, are bitwise the same at any shape."""
    sizes = [sum(map(bytes_of, loop.nodes)) for loop in plan.loops]
    limit = max(sizes, default=0) // _SMALL
    loops = (
        replace(loop, at_once=size <= limit and _is_exact(loop)) for loop, size in zip(plan.loops, sizes, strict=True)
    )
    return replace(plan, loops=tuple(loops))


def _is_exact(loop: Loop) -> bool:
    """Whether the loop saves nothing, and its values, roots aside, are bitwise the same for any micro-batches."""
    return not loop.saved and all(n in loop.roots or _computes_exactly(n) for n in loop.nodes)


def _computes_exactly(node: Node) -> bool:
    rule = rule_of(node.target)
    return rule is not None and rule.exact
