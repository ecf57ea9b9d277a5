"""What a node takes from its own micro-batch, and what it takes whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch.fx import Node

from .operands import elements, is_size, operands, reads_sizes
from .placement import Replicate
from .propagation import Propagation
from .rules.table import rule_of


def local_operands(known: Propagation, node: Node) -> Iterator[Node]:
    """Operands that ``node`` takes from its own micro-batch: S as S, P as P."""
    for operand, need in zip(operands(node), known.needs.get(node, ()), strict=False):
        if operand.node is None or is_size(node) or isinstance(need.placement, Replicate):
            continue
        if known.values[operand.node].placements[0] == need.placement or is_result_of_many(known, operand.node):
            yield operand.node


def is_result_of_many(known: Propagation, node: Node) -> bool:
    """Whether a node yields several values, which only ``getitem`` reads."""
    return len(known.values[node].placements) > 1


def whole_operands(known: Propagation, node: Node) -> Iterator[Node]:
    """Operands that ``node`` takes whole: as constants, or to be sliced."""
    if is_size(node) and reads_sizes(node):
        return
    local = set(local_operands(known, node))
    taken = [(o.node, n) for o, n in zip(operands(node), known.needs.get(node, ()), strict=False) if o.node is not None]
    for value, need in taken:
        if value not in local or isinstance(need.placement, Replicate):
            yield value


def is_remade(known: Propagation, node: Node) -> bool:
    """Whether the whole value is computed from whole operands, and not assembled by a loop."""
    value = known.values[node]
    return isinstance(value.placements[0], Replicate) or value.whole_stage is not None or _moves_behind(known, node)


def _moves_behind(known: Propagation, node: Node) -> bool:
    """Data movement that makes nothing smaller is done once, after its operand is assembled."""
    rule, sources = rule_of(node.target), list(local_operands(known, node))
    if rule is None or not rule.moves or len(sources) != 1 or len(node.all_input_nodes) > 1 + _sizes(node):
        return False
    return elements(sources[0]) <= elements(node)


def _sizes(node: Node) -> int:
    return sum(is_size(n) for n in node.all_input_nodes)


def size_sources(node: Node) -> Iterator[Node]:
    """Tensors whose data (not their sizes) the sizes in a node's arguments come from."""
    seen: set[Node] = set()
    stack = [n for n in node.all_input_nodes if is_size(n)]
    while stack:
        size = stack.pop()
        if size in seen or size.op == "placeholder" or reads_sizes(size):
            continue
        seen.add(size)
        stack += [n for n in size.all_input_nodes if is_size(n)]
        yield from (n for n in size.all_input_nodes if not is_size(n))


def closure(known: Propagation, roots: Iterable[Node], stop: Iterable[Node] = ()) -> set[Node]:
    """The roots and every local value they are computed from, not going past ``stop``."""
    stop, seen, stack = set(stop), set(), list(roots)
    while stack:
        node = stack.pop()
        if node in seen or node in stop or node.op != "call_function":
            continue
        seen.add(node)
        stack += local_operands(known, node)
    return seen
