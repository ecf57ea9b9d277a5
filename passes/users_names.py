"""Gives values the names that the user gave them.

Before::

    def forward(self, primals_1, primals_2):
        mm = aten.mm.default(primals_2, primals_1)
        return [mm, ...]

After::

    def forward(self, model_weight, inputs):
        logits = aten.mm.default(inputs, model_weight)
        return [logits, ...]

Every graph, body and program made from it keeps the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from accumcompile.ir.names import Names, last_of, with_descriptions

from .manager import Context


def users_names(gm: GraphModule, context: Context) -> GraphModule:
    """A copy of ``gm`` whose inputs, outputs and variables have the user's names, turned into identifiers."""
    chosen: dict[Node, str] = {}
    for node, name in _names(gm, context.names):
        identifier = re.sub(r"\W+", "_", name.replace("'s ", "_")).strip("_")
        if identifier:
            chosen.setdefault(node, f"_{identifier}" if identifier[0].isdigit() else identifier)
    graph = Graph()
    new: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        new[node] = _named(graph, node, chosen[node], new) if node in chosen else graph.node_copy(node, new.__getitem__)
    return GraphModule(gm, graph)


def _names(gm: GraphModule, names: Names) -> Iterator[tuple[Node, str]]:
    """Nodes with their names: inputs, then outputs, then variables."""
    for node in gm.graph.find_nodes(op="placeholder"):
        yield node, names.of_described(node.meta.get("desc"))
    for node, description in with_descriptions(gm.graph):
        if isinstance(node, Node) and node.op == "call_function":
            yield node, names.of_described(description)
    for name, node in last_of(gm.graph).items():
        yield node, names.values.get(name, "")


def _named(graph: Graph, node: Node, name: str, new: dict[Node, Node]) -> Node:
    """A copy of a node with a new name, or a similar one if another node has that."""
    args, kwargs = map_arg((node.args, node.kwargs), new.__getitem__)
    copy = graph.create_node(node.op, node.target, args, kwargs, name, node.type)
    copy.meta = dict(node.meta)
    if node.op == "placeholder":
        copy.target = copy.name
    return copy
