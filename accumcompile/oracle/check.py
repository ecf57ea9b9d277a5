"""Runs a graph whole and in uneven micro-batches, and a node on a sum and on its parts; both must agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from ..ir.operands import data_symbols, operands, shape_of
from ..ir.placement import Placement, R, Size
from ..ir.sizes import NO_BATCH, Batch, expression
from ..ir.torch_api import pytree
from ..passes import GRAPH_PASSES, NORMALISATION, PROGRAM_PASSES
from ..passes.manager import Context, Planned, run
from ..passes.rewriting import placeholders_first
from ..planning.decisions import schedule
from ..propagation.placed import Propagation
from ..propagation.propagate import propagate
from ..rules.rule import Alignment, Facts
from ..rules.table import is_impure, rule_of
from ..verify.differences import rel_diff
from .capture import Captured, differentiable

TOLERANCE = 1e-7
ROUNDING = 1e-2  # the same where half precision is involved
PATTERN = (1, 2, 4)  # sizes of micro-batches, repeated


@dataclass(frozen=True)
class Uneven:
    """A split into micro-batches of several sizes, each a multiple of ``granule``."""

    batch: int
    granule: int = 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start, turn = 0, 0
        while start < self.batch:
            rows = min(PATTERN[turn % 3] * self.granule, self.batch - start)
            yield start, rows
            start, turn = start + rows, turn + 1

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def at_once(self) -> Uneven:
        """The whole batch as one micro-batch."""
        return Uneven(self.batch, self.batch)


@dataclass
class Outcome:
    """What a split run gave: each output's difference from the whole run's, and its placement."""

    propagation: Propagation
    outputs: tuple[Any, ...]
    differences: list[float]
    placements: list[Placement]
    gathers: int
    loops: int


def run_split(captured: Captured, normalise: bool = True) -> Outcome:
    """Run a captured graph with a batch whole and split, and compare."""
    gm, propagation = placed(captured, normalise)
    plan = schedule(gm.graph, propagation)
    program = run(PROGRAM_PASSES, gm, Planned(plan))
    expected = seeded(captured.gm, captured.tensors)
    actual = seeded(lambda *xs: program(Uneven(captured.size, propagation.granule()), *xs), captured.tensors)
    differences = [rel_diff(a, b, scale_of(a)) for a, b in zip(expected, actual, strict=True)]
    placements = [propagation.placement(o) for o in plan.outputs if isinstance(o, Node)]
    return Outcome(propagation, plan.outputs, differences, placements, count_gathers(propagation), len(plan.loops))


def placed(captured: Captured, normalise: bool = True) -> tuple[GraphModule, Propagation]:
    """The graph that is split, and the placement of everything in it."""
    assert captured.batch is not None
    gm = behind_work(normal(captured.gm, captured.batch) if normalise else captured.gm)
    return gm, propagate(gm.graph, captured.batch)


def normal(gm: GraphModule, batch: Batch) -> GraphModule:
    """The graph as propagation sees it."""
    return run([*NORMALISATION, *GRAPH_PASSES], gm, Context(batch))


def behind_work(gm: GraphModule) -> GraphModule:
    """The graph with every input behind an identity operator whose result is not free to recompute whole.

    Otherwise data movement and pointwise operators on inputs would run on whole inputs, outside all loops, and
    nothing would be tested.
    """
    graph = Graph()
    new: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        new[node] = copy = graph.node_copy(node, new.__getitem__)
        if node.op == "placeholder" and isinstance(node.meta["val"], torch.Tensor):
            new[node] = graph.call_function(torch.ops.aten.constant_pad_nd.default, (copy, []))
            new[node].meta["val"] = node.meta["val"]
    return GraphModule(gm, placeholders_first(graph))


def scale_of(x: Any) -> float | None:
    """The scale of relative differences: the largest finite value, but at least 1e-3."""
    if not differentiable(x) or x.numel() == 0:
        return None
    finite = x.detach().abs()
    finite = finite[finite.isfinite()]
    return max(1e-3, finite.max().item()) if finite.numel() else 1.0


def count_gathers(propagation: Propagation) -> int:
    """The number of operands that are S or P and taken as R."""
    count = 0
    for operand, need in (taken for placed in propagation for taken in placed.takes()):
        if operand.node is not None and not (value := propagation[operand.node]).has_many:
            count += value.placement != R and need.placement == R
    return count


def seeded(run: Callable, tensors: Sequence[torch.Tensor]) -> list:
    """The results of a run, with the same random seed each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        return pytree.tree_leaves(run(*[x.clone() for x in tensors]), is_leaf=lambda v: v is None)


# --- sums


def parts_of(x: torch.Tensor, count: int = 3) -> list[torch.Tensor]:
    """Signed parts, not proportional to each other, whose sum is ``x``."""
    draw = torch.randn_like if differentiable(x) else lambda x: torch.randint_like(x, -9, 9)
    parts = [draw(x) * (i + 1) for i in range(count - 1)]
    return [*parts, x - sum(parts)]


def alignment_of(node: Node, batch: Batch = NO_BATCH) -> Alignment | None:
    """The table's rule applied to a node."""
    rule = rule_of(node.target)
    if rule is None or is_impure(node) or not operands(node):
        return None
    value = node.meta.get("val")
    results = tuple(shape(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    if any(data_symbols(s) for r in results for s in r or ()):
        return None
    return rule.alignment(Facts(node, tuple(shape_of(o.node) for o in operands(node)), results, batch))


def shape(value: Any) -> tuple[Size, ...] | None:
    """The shape of a fake value; None if it is not a tensor."""
    return tuple(expression(s) for s in value.shape) if isinstance(value, torch.Tensor) else None


def linear_differences(node: Node, args: tuple, kwargs: dict) -> dict[frozenset[int], float]:
    """How far the sum of the parts is from the whole, for each set of operands in which the rule is linear."""
    alignment, taken = alignment_of(node), operands(node)
    groups = set(alignment.linear) if alignment else set()
    return {
        group: _joint(node, args, kwargs, [taken[i].path for i in group if i < len(taken) and not taken[i].absent])
        for group in groups
        if group and all(i >= len(taken) or taken[i].absent or taken[i].node is not None for i in group)
    }


def _joint(node: Node, args: tuple, kwargs: dict, paths: list) -> float:
    given = {path: _at(args, kwargs, path) for path in paths}
    given = {path: x for path, x in given.items() if isinstance(x, torch.Tensor)}
    if not given or not all(x.dtype.is_signed for x in given.values()):
        return 0.0
    whole = pytree.tree_leaves(node.target(*args, **kwargs))
    parts = {path: parts_of(x) for path, x in given.items()}
    runs = [
        pytree.tree_leaves(
            node.target(
                *_with(args, {p: v[k] for p, v in parts.items()}, "args"),
                **_with(kwargs, {p: v[k] for p, v in parts.items()}, "kwargs"),
            )
        )
        for k in range(3)
    ]
    tensors = [r for run in (*runs, whole) for r in run if isinstance(r, torch.Tensor)]
    scale = max(scale_of(r) or 0.0 for r in tensors)
    columns = [column for column in zip(whole, *runs, strict=True) if isinstance(column[0], torch.Tensor)]
    difference = max(rel_diff(w, sum(r), scale or 1.0) for w, *r in columns)
    return 0.0 if _is_narrow([*given.values(), *tensors]) and difference < ROUNDING else difference


def _is_narrow(tensors: list[torch.Tensor]) -> bool:
    """Whether some value has less than double precision, so that rounding is visible."""
    kinds = [x.dtype for x in tensors if differentiable(x)]
    return any(torch.finfo(kind).eps > 1e-10 for kind in kinds)


def _at(args: tuple, kwargs: dict, path: tuple) -> Any:
    kind, key, *rest = path
    value: Any = args[key] if kind == "args" else kwargs.get(key)
    for step in rest:
        value = value[step]
    return value


def _with(container: Any, changed: dict, kind: str) -> Any:
    """A copy of the arguments with some operands replaced."""
    copy = {
        k: (list(v) if isinstance(v, (list, tuple)) else v)
        for k, v in (enumerate(container) if kind == "args" else container.items())
    }
    for (where, key, *rest), value in changed.items():
        if where == kind:
            if rest:
                copy[key][rest[0]] = value
            else:
                copy[key] = value
    return tuple(copy[i] for i in range(len(copy))) if kind == "args" else copy
