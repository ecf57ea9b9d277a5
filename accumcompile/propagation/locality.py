"""Which operands a node takes from its own micro-batch, and which it takes whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch.fx import Node

from ..ir.operands import Operand, is_size, reads_sizes
from ..ir.placement import Replicate
from ..rules.table import rule_of
from .cost import elements_of
from .placed import Need, Propagation

Takes = Iterable[tuple[Operand, Need]]


def local_and_whole(propagation: Propagation, node: Node, takes: Takes) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Operands taken from the micro-batch (S as S, P as P), and operands taken whole, perhaps to be sliced."""
    if is_size(node):
        return (), () if reads_sizes(node) else tuple(o.node for o, _ in takes if o.node is not None)
    local: list[Node] = []
    whole: list[Node] = []
    for operand, need in takes:
        if operand.node is not None:
            (local if _is_local(propagation, operand.node, need) else whole).append(operand.node)
    return tuple(local), tuple(whole)


def _is_local(propagation: Propagation, operand: Node, need: Need) -> bool:
    placed = propagation[operand]
    if isinstance(need.placement, Replicate) or placed.seed:
        return False
    return placed.has_many or placed.placement == need.placement


def moves_behind(node: Node, local: tuple[Node, ...]) -> bool:
    """Whether a node moves data without shrinking it, and so runs once, after its operand is assembled."""
    rule = rule_of(node.target)
    if rule is None or not rule.moves or len(local) != 1 or sum(not is_size(n) for n in node.all_input_nodes) != 1:
        return False
    return elements_of(local[0]) <= elements_of(node)


def sources_of_sizes(propagation: Propagation, node: Node) -> Iterator[Node]:
    """Tensors that must be there before the data-dependent sizes in a node's arguments are known."""
    seen: set[Node] = set()
    stack = [n for n in node.all_input_nodes if is_size(n)]
    while stack:
        size = stack.pop()
        if size in seen or size.op == "placeholder":
            continue
        seen.add(size)
        read = propagation.makers_of(size.meta["val"]) if reads_sizes(size) else size.all_input_nodes
        stack += [n for n in read if is_size(n)]
        yield from (n for n in read if not is_size(n))
