"""What the values in a graph are called: after what they become, or the variable they are computed for."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, Node

from .capture.naming import Names
from .operands import is_size
from .placement import Replicate
from .propagate import elements
from .rules.table import rule_of
from .stages import Schedule, local_operands

_NUMBER = re.compile(r"_\d+$")  # what sets a variable apart from others of its name


class Called:
    """The names of one graph's nodes.

    An input has the user's name for it, and what ends up as an output that has a name (a gradient, the loss)
    has the output's. Another value is called after the variable that it is computed for: ``logits`` if it is
    that variable's value, ``amax in loss`` if it is something in between.
    """

    def __init__(self, graph: Graph, plan: Schedule, names: Names):
        self.plan, self.names = plan, names
        self.assembled = {n for loop in plan.loops for n in (*loop.roots, *loop.saved)}
        self.variables = dict(_variables(graph))
        self.functions = dict(_functions(graph))
        self.values = {node: variable for variable, node in _last_of(self.variables).items()}
        self.outputs: dict[Node, list[str]] = {}
        for node, description in described(graph):
            if isinstance(node, Node) and (name := names.of_described(description)):
                self._name_output(node, name)

    def of(self, node: Node) -> str:
        """The name of a node."""
        if node.op == "placeholder":
            return self.names.of_described(node.meta.get("desc") or node.meta.get("copy_of")) or node.name
        if node.op == "get_attr":
            return str(node.target)
        if node in self.outputs:
            return " and ".join(dict.fromkeys(self.outputs[node]))
        if is_rearrangement(node):
            source = next(n for n in node.all_input_nodes if not is_size(n))
            return self.of(source) if elements(node) >= elements(source) else f"part of {self.of(source)}"
        if node in self.values:
            return self.values[node]
        if node.target is operator.getitem:
            return self.of(node.args[0])
        inside, name = self.variables.get(node) or self.functions.get(node), short(node)
        if not inside:
            return name
        return inside if name in (inside.split()[-1], _NUMBER.sub("", inside)) else f"{name} in {inside}"

    def function(self, node: Node) -> str:
        """The function of the user's that a node is part of, or whose backward it is; else the operator."""
        return self.functions.get(node) or short(node)

    def _name_output(self, node: Node, name: str) -> None:
        """Name an output, and what it is a mere rearrangement or multiple of."""
        while node.op == "call_function":
            self.outputs.setdefault(node, []).append(name)
            sources = list(dict.fromkeys(local_operands(self.plan.propagation, node)))
            if node in self.assembled or len(sources) != 1 or self._is_whole(node):
                return
            node = sources[0]

    def _is_whole(self, node: Node) -> bool:
        return isinstance(self.plan.propagation.values[node].placements[0], Replicate)


def described(graph: Graph) -> Iterable[tuple[Any, Any]]:
    """Each output with AOTAutograd's description of it, where it has one."""
    output = graph.output_node()
    values = output.args[0]
    return zip(values, output.meta.get("desc") or [None] * len(values), strict=True)


def is_rearrangement(node: Node) -> bool:
    """Whether a node only moves the data of one tensor, or casts it."""
    rule = rule_of(node.target)
    casts = (torch.ops.prims.convert_element_type.default, torch.ops.aten._to_copy.default)
    moves = node.target in casts or (rule is not None and rule.moves)
    return moves and sum(not is_size(n) for n in node.all_input_nodes) == 1


def short(node: Node) -> str:
    """The operator's own name: ``mm`` for ``aten.mm.default``."""
    packet = getattr(node.target, "overloadpacket", None)
    return getattr(packet or node.target, "__name__", str(node.target))


def _variables(graph: Graph) -> Iterable[tuple[Node, str]]:
    """The variable in whose computation each node stands, from torch's record of where a node comes from."""
    for node in graph.nodes:
        origins = node.meta.get("from_node")
        if node.op == "call_function" and origins and not is_size(node):
            yield node, origins[0].name


def _last_of(variables: dict[Node, str]) -> dict[str, Node]:
    """The node that is a variable's value: the last one in its computation."""
    return {variable: node for node, variable in variables.items()}


def _functions(graph: Graph) -> Iterable[tuple[Node, str]]:
    """The user's function that each node is part of: autograd numbers a function and its backward alike."""
    numbered: dict[int, str] = {}
    for node in graph.nodes:
        stack, number = node.meta.get("source_fn_stack"), node.meta.get("seq_nr", -1)
        if stack:
            name = getattr(stack[-1][1], "__name__", str(stack[-1][1]))
            numbered.setdefault(number, name)
            yield node, name
        elif number in numbered and number >= 0:
            yield node, f"the backward of {numbered[number]}"
