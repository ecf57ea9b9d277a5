"""What two loops need: saved by the earlier one, or computed again by the later one.

Computing everything again is quadratic in the number of loops. So a value is computed at most twice; beyond that, and
where rounding must not differ, the smallest cut (in bytes) between what may not be computed again and what the loop
yields is saved.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import networkx
from torch.fx import Node

from .locality import closure, is_remade, local_operands, whole_operands
from .operands import elements, is_tensor
from .placement import Partial, Shard
from .propagation import Propagation
from .rules.table import rule_of

_MOST = 2  # times that a value may be computed
_UNSAVABLE = 1 << 62  # bytes: partial sums, and values of which none has been made before


def choose_saved(known: Propagation, loops: list, order: dict[Node, int]) -> None:
    """Fill in ``nodes`` and ``saved`` of each loop."""
    computed: Counter[Node] = Counter()
    maker: dict[Node, Any] = {}  # the last loop that computed a value
    whole: set[Node] = set()  # S values that exist for the full batch
    for loop in loops:
        needed = closure(known, loop.roots, whole)
        forbidden = {n for n in needed if computed[n] >= _MOST} | _pinned(known, needed, maker)
        loaded = _smallest_cut(known, needed, loop.roots, forbidden, maker) if forbidden else set()
        for node in sorted(loaded, key=order.__getitem__):
            maker[node].saved.append(node)
        whole |= loaded
        loop.roots = [root for root in loop.roots if root not in whole]
        body = closure(known, loop.roots, whole)
        loop.nodes = sorted(body, key=order.__getitem__)
        computed.update(body)
        maker.update(dict.fromkeys(body, loop))
        whole |= {root for root in loop.roots if isinstance(known.values[root].placements[0], Shard)}


def _smallest_cut(
    known: Propagation, needed: set[Node], roots: list[Node], forbidden: set[Node], maker: dict
) -> set[Node]:
    """The cheapest saved values that keep the forbidden ones from being computed, as far as values can be saved."""
    savable = {n for n in needed if n in maker and is_tensor(n) and isinstance(known.placement(n), Shard)}
    graph = networkx.DiGraph()
    for node in needed:
        cost = elements(node) * node.meta["val"].dtype.itemsize if node in savable else _UNSAVABLE
        graph.add_edge((node, "in"), (node, "out"), capacity=cost)
        for operand in local_operands(known, node):
            if operand in needed:
                graph.add_edge((operand, "out"), (node, "in"))
    for node in forbidden:
        graph.add_edge("source", (node, "in"))
    for root in needed.intersection(roots):
        graph.add_edge((root, "out"), "sink")
    _, (reached, _) = networkx.minimum_cut(graph, "source", "sink")
    return {node for node in savable if (node, "in") in reached and (node, "out") not in reached}


def _pinned(known: Propagation, needed: set[Node], maker: dict) -> set[Node]:
    """Values made before that meet their own maximum or order in an operator that jumps.

    Computed again, they may round differently, and then equal nothing.
    """
    pinned: set[Node] = set()
    for node in needed:
        rule = rule_of(node.target)
        if rule is None or not rule.discontinuous:
            continue
        above = closure(known, [node])
        assembled = {b for n in above for w in whole_operands(known, n) for b in _barriers(known, w)}
        for barrier in assembled:
            common = above & closure(known, [barrier])
            pinned |= {n for n in common if n in maker and any(user in above - common for user in n.users)}
    return pinned


def _barriers(known: Propagation, value: Node) -> set[Node]:
    """The maxima, minima and gathered values that a whole value is computed from."""
    found, seen, stack = set(), set(), [value]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        placement = known.values[node].placements[0]
        if is_remade(known, node):
            stack += node.all_input_nodes
        elif isinstance(placement, Shard) or placement in (Partial("max"), Partial("min")):
            found.add(node)
    return found
