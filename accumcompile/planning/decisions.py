"""The schedule of a graph, made by one decision after the other."""

from __future__ import annotations

from torch.fx import Graph

from ..propagation.placed import Propagation
from .deadlines import assign_roots
from .saving import choose_saved
from .schedule import Schedule
from .small_loops import run_small_at_once

DECISIONS = (choose_saved, run_small_at_once)


def schedule(graph: Graph, propagation: Propagation) -> Schedule:
    """Assign every value that the outputs need to the loops that compute it."""
    plan = assign_roots(graph, propagation)
    for decide in DECISIONS:
        plan = decide(plan)
    return plan
