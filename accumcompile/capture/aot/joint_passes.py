"""Inductor's joint-graph passes; one that fails is left out. Checked on torch 2.13.

They run on a copy. If that raises, they run again one by one, each on a fresh copy, so that only those that fail are
lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch._guards import detect_fake_mode
from torch._inductor import config
from torch._inductor.fx_passes import joint_graph
from torch._inductor.pattern_matcher import PatternMatcherPass
from torch._inductor.virtualized import V
from torch.fx import GraphModule

from ...passes.manager import Context
from ...passes.rewriting import copied
from ..dynamo.break_reasons import first_sentence

InPlacePass = Callable[[GraphModule], object]


@dataclass(frozen=True)
class Normalising(Context):
    """The context of the passes over a graph from AOTAutograd.

    ``draws_by_seed``: also rewrite random numbers to be functions of a seed, which only Inductor can run. ``note`` is
    called with a line about each pass that failed.
    """

    draws_by_seed: bool = False
    note: Callable[[str], None] = print


def improve(gm: GraphModule, context: Normalising) -> GraphModule:
    """Run Inductor's joint-graph passes, which do not run on the loop bodies later."""
    with V.set_fake_mode(detect_fake_mode()), config.patch(fallback_random=not context.draws_by_seed):
        try:
            return _after(joint_graph.joint_graph_passes, gm)
        except Exception:
            return _one_by_one(gm, context.note)


def _after(run: InPlacePass, gm: GraphModule) -> GraphModule:
    gm = copied(gm)
    run(gm)
    gm.graph.lint()
    gm.recompile()
    return gm


def _one_by_one(gm: GraphModule, note: Callable[[str], None]) -> GraphModule:
    for run in _passes(gm):
        try:
            gm = _after(run, gm)
        except Exception as error:
            note(f"an optimisation of PyTorch's failed, and the graph does without it: {first_sentence(error)}")
    return gm


def _passes(gm: GraphModule) -> Iterator[InPlacePass]:
    """What ``joint_graph_passes`` runs on ``gm``, in its order."""
    yield _without_patterns
    for patterns in (joint_graph.early_patterns, *joint_graph.pass_patterns):
        yield from _each(patterns, gm)
    if not config.fallback_random:
        yield joint_graph.replace_random_passes


def _without_patterns(gm: GraphModule) -> None:
    with config.patch(pattern_matcher=False, fallback_random=True):
        joint_graph.joint_graph_passes(gm)


def _each(patterns: PatternMatcherPass, gm: GraphModule) -> Iterator[InPlacePass]:
    """The patterns of a group that end at an operator of the graph, each as a pass of its own."""
    present = {(node.op, node.target) for node in gm.graph.nodes}
    for key in [key for key in patterns.patterns if key in present]:
        for entry in patterns.patterns[key]:
            alone = PatternMatcherPass()
            alone.patterns[key].append(entry)
            yield _applied(alone)


def _applied(patterns: PatternMatcherPass) -> InPlacePass:
    def apply(gm: GraphModule) -> None:
        if patterns.apply(gm.graph):
            joint_graph.stable_topological_sort(gm.graph)

    return apply
