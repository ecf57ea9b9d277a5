"""Stores values that are compared with what was selected from them, for compilers that compute a value in each kernel.

Before, two kernels may compute ``v``, one of them for the maximum, and ``v`` may then be nowhere equal to it::

    v = aten.exp.default(x)
    highest = aten.amax.default(v, [1], True)
    return aten.ge.Tensor(v, highest)

After::

    v = aten.exp.default(x)
    stored = accumcompile.stored(v)
    highest = aten.amax.default(stored, [1], True)
    return aten.ge.Tensor(stored, highest)

So are values that are returned together with what was selected from them, to be compared later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.fx import Graph, GraphModule, Node

from accumcompile.ir.operands import ancestors, descendants, is_tensor
from accumcompile.ir.stored import stored
from accumcompile.rules.table import jumps_in, keeps_elements, rule_of

from .rewriting import copied


def store_compared(gm: GraphModule, context: Any = None) -> GraphModule:
    """A copy of ``gm`` in which such values are stored. The context is not used."""
    gm = copied(gm)
    for value in list(dict.fromkeys(_compared(gm.graph))):
        with gm.graph.inserting_after(value):
            copy = gm.graph.call_function(stored, (value,))
        copy.meta |= value.meta
        value.replace_all_uses_with(copy, delete_user_cb=lambda user, copy=copy: user is not copy)
    return gm


def _compared(graph: Graph) -> Iterator[Node]:
    """The values that reach a jump, or are returned, beside what was selected from them."""
    jumps = {node: operands for node in graph.nodes if (operands := jumps_in(node))}
    returned = set(graph.output_node().all_input_nodes)
    for choice in graph.nodes:
        values = [value for value in _selected_from(choice) if is_tensor(value) and len(value.users) > 1]
        if values:
            own, met = {choice} | ancestors(choice), _met(choice, jumps)
            kept = bool(returned & descendants([choice], keeps_elements))
            for value in values:
                if met.intersection(value.users) - own or (kept and returned & descendants([value], _moves)):
                    yield value


def _met(choice: Node, jumps: dict[Node, set[Node]]) -> set[Node]:
    """The jumps that depend on a selected value, and all that their operands are computed from."""
    depend = descendants([choice])
    reached = {node: operands for node, operands in jumps.items() if operands & depend}
    operands = set().union(*reached.values())
    return set(reached) | operands | ancestors(*operands)


def _selected_from(choice: Node) -> Iterator[Node]:
    """The values whose elements an operator selects, or that hold the same elements elsewhere."""
    stack, seen = [choice] if _picks(choice) else [], {choice}
    while stack:
        node = stack.pop()
        if node is not choice:
            yield node
        if node is choice or keeps_elements(node):
            stack += [n for n in node.all_input_nodes if n.op == "call_function" and n not in seen]
            seen.update(node.all_input_nodes)


def _moves(node: Node) -> bool:
    return keeps_elements(node) and not _picks(node)


def _picks(node: Node) -> bool:
    rule = rule_of(node.target)
    return rule is not None and rule.picks
