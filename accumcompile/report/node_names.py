"""Names for a graph's values: after the outputs they become, or the variables they are computed for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

import torch
from torch.fx import Graph, Node

from ..ir.names import Names, last_of, of_module, with_descriptions
from ..ir.operands import is_size
from ..ir.placement import Replicate
from ..planning.schedule import Schedule
from ..propagation.cost import elements_of
from ..rules.table import rule_of

_BACKWARD = "the backward of "


class NodeNames:
    """The names of one graph's nodes.

    An input has the user's name for it, and a value that becomes a named output (a gradient, the loss) has the
    output's name. Others are named after the variable or the module whose value they are (``logits``,
    ``model.0's output``), or after the function that computes them (``amax in cross_entropy``).
    """

    def __init__(self, graph: Graph, plan: Schedule, names: Names):
        self.plan, self.names = plan, names
        self.assembled = {n for loop in plan.loops for n in (*loop.roots, *loop.saved)}
        self.functions = dict(_with_backward(graph, _function))
        self.places = dict(_with_backward(graph, _place))
        self.values = {node: names.values.get(name, name) for name, node in last_of(graph).items()}
        self.outputs: dict[Node, list[str]] = {}
        for node, description in with_descriptions(graph):
            if isinstance(node, Node) and (name := names.of_described(description)):
                self._name_output(node, name)

    def of(self, node: Node) -> str:
        """The name of a node."""
        part = ""
        while (name := self._own_name(node)) is None:
            source = next(n for n in node.all_input_nodes if not is_size(n))
            if is_rearrangement(node) and elements_of(node) < elements_of(source):
                part = "part of "
            node = source
        return part + name

    def _own_name(self, node: Node) -> str | None:
        """A node's own name; None if it is named after its operand."""
        if node.op == "placeholder":
            return self.names.of_described(node.meta.get("desc") or node.meta.get("copy_of")) or node.name
        if node.op == "get_attr":
            return str(node.target)
        if node in self.outputs:
            return " and ".join(dict.fromkeys(self.outputs[node]))
        if is_rearrangement(node):
            return None
        if node in self.values:
            return self.values[node]
        if node.target is operator.getitem:
            return None
        inside, name = self.places.get(node), short(node)
        if not inside:
            return name
        return inside if name == inside.split()[-1] else f"{name} in {inside}"

    def function(self, node: Node) -> str:
        """The function that the user called and that a node, or its forward operator, is part of; else the operator."""
        function = self.functions.get(node) or short(node)
        gathers = short(node) == "add" and function.startswith(_BACKWARD)  # perhaps of gradients from several functions
        return "the backward" if gathers else function

    def _name_output(self, node: Node, name: str) -> None:
        """Name an output, and the chain of values that it is computed from as long as each has one local operand."""
        while node.op == "call_function":
            self.outputs.setdefault(node, []).append(name)
            sources = list(dict.fromkeys(self.plan.propagation[node].local))
            if node in self.assembled or len(sources) != 1 or self._is_whole(node):
                return
            node = sources[0]

    def _is_whole(self, node: Node) -> bool:
        return isinstance(self.plan.propagation.placement(node), Replicate)


def is_rearrangement(node: Node) -> bool:
    """Whether a node only moves the data of one tensor, or casts it."""
    rule = rule_of(node.target)
    casts = (torch.ops.prims.convert_element_type.default, torch.ops.aten._to_copy.default)
    moves = node.target in casts or (rule is not None and rule.moves)
    return moves and sum(not is_size(n) for n in node.all_input_nodes) == 1


def short(node: Node) -> str:
    """The operator's short name: ``mm`` for ``aten.mm.default``."""
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet or node.target, "__name__", str(node.target))


def _place(node: Node) -> str:
    """The module or function that a node is a part of."""
    function = _function(node)
    return function and (of_module(node.meta) or function)


def _function(node: Node) -> str:
    """The function that the user called and that a node is part of."""
    stack = node.meta.get("source_fn_stack")
    return getattr(stack[-1][1], "__name__", str(stack[-1][1])) if stack else ""


def _with_backward(graph: Graph, name_of: Callable[[Node], str]) -> Iterable[tuple[Node, str]]:
    """The names of nodes and of their backward nodes; autograd gives both the same sequence number."""
    numbered: dict[int, str] = {}
    for node in graph.nodes:
        name, number = name_of(node), node.meta.get("seq_nr", -1)
        if name:
            numbered.setdefault(number, name)
            yield node, name
        elif number in numbered and number >= 0:
            yield node, _BACKWARD + numbered[number]
