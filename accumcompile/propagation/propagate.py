"""Propagation: a placement and a stage for every value of a graph, from those of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import sympy
from torch.fx import Graph, Node

from ..ir.derived import Derived
from ..ir.divisibility import DIVISIONS
from ..ir.operands import makers, shape_of
from ..ir.placement import Layout, Placement, R, Replicate, Shard, Size
from ..ir.sizes import Batch
from .placed import Placed, Propagation
from .placer import Placer


def propagate(
    graph: Graph,
    batch: Batch,
    inputs: Mapping[Node, Placement] | None = None,
    seeds: AbstractSet[Node] = frozenset(),
    plain: Propagation | None = None,
    preferred: AbstractSet[sympy.Symbol | None] = frozenset(),
) -> Propagation:
    """Place every value of ``graph``.

    Args:
        graph: a functional ATen graph with fake tensors in ``meta["val"]``.
        batch: the batch's symbol.
        inputs: placements of placeholders; by default, a tensor is sharded along its first dimension that is a
            multiple of the batch, and everything else is replicated, but for seeds.
        seeds: values that loops may slice by their rows where they are computed whole.
        plain: the result without seeds, by which it is known where data-dependent sizes are first there.
        preferred: rows along which a node is split where others would do too; None for the batch's.
    """
    sizes = (size for node in seeds for size in shape_of(node) or ())
    derived = {rows.symbol: rows for size in sizes for rows in Derived.all_in(size, batch)}
    result = Propagation(batch, derived, makers(graph.nodes) if plain is None else plain.makers, seeds, preferred)
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op in ("placeholder", "get_attr"):
            placement = inputs.get(node, R) if inputs is not None else input_placement(node, batch)
            other = result.shard_of(shape_of(node)) if node in seeds else None
            result.place(_input(node, other or placement))
        else:
            result.place(Placer(result, node).place())
    if result.makers:  # several nodes may make a size: the one of the earliest stage, and what follows it, come later
        result.makers = makers(sorted(graph.nodes, key=lambda n: result[n].stage if n in result else 0))
    return result


def _input(node: Node, placement: Placement) -> Placed:
    """An input is available whole, whatever its placement."""
    unsplit = isinstance(placement, Replicate)
    return Placed(node, (Layout(placement),), whole_stage=0, unsplit=unsplit, remade=True, reason="input")


def _is_rounded(size: Size) -> bool:
    return isinstance(size, sympy.Basic) and size.has(*DIVISIONS)


def input_placement(node: Node, batch: Batch) -> Placement:
    """Sharded along the first dimension that holds a whole number of rows for each sample."""
    for dim, size in enumerate(shape_of(node) or ()):
        if batch.per_sample(size) is not None and batch.granule(size) == 1 and not _is_rounded(size):
            return Shard(dim)
    return R
