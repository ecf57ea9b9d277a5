"""How a graph's inputs are split along the batch: plainly, or along the rows of several equal blocks.

``chosen, rejected = model(x).chunk(2)`` pairs row i with row i + n. Of a batch that is split plainly no micro-batch
holds such a pair, and both parts are gathered. Of one that is read as (2 n) and split along n each does. Either is
right: the one that gathers less is taken, as long as it needs no more loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch.fx import Graph, Node

from ..ir.operands import is_size, shape_of, shapes_of
from ..ir.placement import Replicate, Shard, Size
from ..ir.sizes import Batch
from ..rules.rule import Alignment, Dim, Facts
from ..rules.table import rule_of
from .cost import bytes_of
from .placed import Placed, Propagation
from .propagate import input_placement, propagate

# With more blocks, a micro-batch holds at least as many samples, and may hold more than was asked for.
MOST_BLOCKS = 4


def best(graph: Graph, batch: Batch) -> Propagation:
    """Every value of ``graph`` placed, with its inputs split in the way that gathers the fewest bytes.

    A way that takes more stages is left out: it may run a model once more to save the gather of its small results.
    """
    plain = propagate(graph, batch)
    cuts = set(_cuts(plain))
    counts = sorted(k for k in cuts | {math.lcm(1, *cuts)} if 1 < k <= MOST_BLOCKS)
    others = filter(None, (_in_blocks(graph, batch, k) for k in counts))
    return min((plain, *(o for o in others if stages(o) <= stages(plain))), key=_gathered)


def stages(propagation: Propagation) -> int:
    """The last stage."""
    return max((placed.stage for placed in propagation), default=0)


def _in_blocks(graph: Graph, batch: Batch, count: int) -> Propagation | None:
    """The inputs split along the rows of ``count`` blocks; None if a batch may have no such blocks."""
    inputs = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            inputs[node] = plain = input_placement(node, batch)
            if isinstance(plain, Shard):
                if batch.per_sample((shape_of(node) or ())[plain.dim], count) is None:
                    return None
                inputs[node] = Shard(plain.dim, count)
    return propagate(graph, batch, inputs)


def _gathered(propagation: Propagation) -> int:
    """The bytes of what is gathered."""
    return sum(map(bytes_of, {node for placed in propagation for _, node, _ in _gathers(propagation, placed)}))


def _gathers(propagation: Propagation, placed: Placed) -> Iterator[tuple[int, Node, Shard]]:
    """Each operand that a node takes whole, and that only a gather makes whole, with its position and placement."""
    for i, (operand, need) in enumerate(() if is_size(placed.node) else placed.takes()):
        value = propagation[operand.node] if operand.node is not None else None
        if value is None or value.whole_stage is not None or not isinstance(need.placement, Replicate):
            continue
        if isinstance(value.placement, Shard):
            yield i, value.node, value.placement


def _cuts(propagation: Propagation) -> Iterator[int]:
    """How many times more blocks each gathered value would need for its node to take it split."""
    batch = propagation.batch
    for placed in propagation:
        gathers = list(_gathers(propagation, placed))
        alignment = _alignment(placed, batch) if gathers else None
        if alignment is None:
            continue
        for i, _, shard in gathers:
            blocks = batch.quotient(_blocks(alignment.operands[i], alignment.sizes, shard.dim, batch), shard.outer)
            if isinstance(blocks, int):
                yield blocks


def _alignment(placed: Placed, batch: Batch) -> Alignment | None:
    rule, node = rule_of(placed.node.target), placed.node
    shapes = tuple(shape_of(operand.node) for operand in placed.operands)
    return rule.alignment(Facts(node, shapes, shapes_of(node), batch)) if rule is not None else None


def _blocks(dims: tuple[Dim, ...], sizes: Mapping[str, Size], dim: int, batch: Batch) -> Size:
    """The size of what stands outside of the batch in a dimension."""
    outside: Size = 1
    for factor in dims[dim] if dim < len(dims) else ():
        if batch.in_size(sizes[factor]):
            return outside
        outside = outside * sizes[factor]
    return 1
