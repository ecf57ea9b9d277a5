"""What runs whole is split again: loops over the rows of a value that had to be computed on the whole batch.

``x[mask]``, a sorted or permuted batch, a part of it: the operator needs all rows, and costs its own result. What
follows is computed row by row, and a loop over the result's rows saves its memory, as a loop over the batch would.
Such a value is a seed: it is there before the loop, which slices it for free. So is an input that is a batch of
another size.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Graph, Node

from ..ir.operands import is_tensor, is_view, shape_of
from ..ir.placement import Replicate
from ..ir.sizes import Batch
from ..rules.table import is_constant
from . import layouts
from .cost import bytes_of
from .placed import Propagation
from .propagate import propagate

GROWTH = 8  # a seed is worth it if what follows it, computed whole, takes so many times its memory
LEAST = 1 / 64  # loops over derived rows are worth it if they save this share of what the graph computes


def propagate_seeded(graph: Graph, batch: Batch) -> Propagation:
    """Place every value of ``graph``, with loops over derived rows where these save memory."""
    plain = layouts.best(graph, batch)
    whole = [p.node for p in plain if _is_whole(plain, p.node)]
    taken = {node: bytes_of(node) for node in whole if not is_view(node)}
    found = {node for node in whole if _is_worth_it(node, taken)}
    if not found:
        return plain
    inputs = {p.node: p.placement for p in plain if p.node.op != "call_function"}
    made = sum(bytes_of(node) for node in graph.nodes if node.op == "call_function" and not is_view(node))
    seeded = propagate(graph, batch, inputs, found, plain)
    others = [propagate(graph, batch, inputs, found, plain, {over}) for over in sorted(seeded.rivals, key=str)]
    best = _fewest_stages([seeded, *others], LEAST * made)
    return best if held(plain) - held(best) >= LEAST * made else plain


def _fewest_stages(ways: Sequence[Propagation], margin: float) -> Propagation:
    """Of those that hold no more than the least and a margin, the one with the fewest barriers, then the least."""
    most = min(map(held, ways)) + margin
    return min((way for way in ways if held(way) <= most), key=lambda way: (layouts.stages(way), held(way)))


def held(propagation: Propagation) -> int:
    """The bytes of rows that are held whole: those computed whole, and those gathered."""
    calls = [p for p in propagation if p.node.op == "call_function"]
    made = {p.node for p in calls if (p.seed or _is_whole(propagation, p.node)) and not is_view(p.node)}
    gathered = {
        operand.node
        for placed in calls
        for operand, need in placed.takes()
        if operand.node is not None and isinstance(need.placement, Replicate)
        if not propagation[operand.node].remade and not propagation[operand.node].has_many
    }
    return sum(map(bytes_of, made | gathered))


def _is_whole(propagation: Propagation, node: Node) -> bool:
    """Whether a value with rows, of a batch or as many as data decides, is there as a whole: computed, or an input."""
    if not is_tensor(node) or is_constant(node):
        return False
    sizes = shape_of(node) or ()
    whole = isinstance(propagation.placement(node), Replicate)
    return whole and any(map(propagation.batch.is_of_rows, sizes))


def _is_worth_it(node: Node, taken: dict[Node, int]) -> bool:
    """Whether so much follows a value; the walk ends as soon as it does."""
    left, seen, stack = GROWTH * bytes_of(node), {node}, [node]
    while stack and left > 0:
        new = [user for user in stack.pop().users if user not in seen]
        seen.update(new)
        stack += new
        left -= sum(taken.get(user, 0) for user in new)
    return left <= 0
