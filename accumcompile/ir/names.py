"""Names for a graph's values, taken from the user's program.

Dynamo records where an input comes from (``L['model']._modules['0']._parameters['weight']``); AOTAutograd describes
the inputs and outputs of its graphs (``GradAOTOutput(grad_of=PlainAOTInput(idx=0))``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Graph, GraphModule, Node

from .operands import is_size
from .torch_api import descriptors as aot

USERS_NAME = "users_name"  # meta key of a node of Dynamo's graph: the user's name for it

_SPELLINGS = (
    (re.compile(r"\b[LG]\['([^']+)'\]"), r"\1"),  # a local or global variable
    (re.compile(r"\._(?:modules|parameters|buffers)\['([^']+)'\]"), r".\1"),
    (re.compile(r"\.size\(\)\[(\d+)\]"), r".shape[\1]"),
)


def of_source(expression: str) -> str:
    """A source as the user writes it: ``model.0.weight``, ``batch['input_ids']``, ``x.shape[0]``."""
    for pattern, spelling in _SPELLINGS:
        expression = pattern.sub(spelling, expression)
    return expression


def users_name_of(node: Any) -> str:
    """The user's name for a node of Dynamo's graph: the variable it is assigned to, or the module that outputs it."""
    if not isinstance(node, Node):
        return ""
    module = of_module(node.meta) if node.op != "placeholder" else ""
    return node.meta.get(USERS_NAME) or (f"{module}'s output" if module else node.name)


def of_module(meta: Mapping[str, Any]) -> str:
    """The innermost module whose ``forward`` contains a node."""
    stack = meta.get("nn_module_stack")
    return of_source(list(stack.values())[-1][0]) if stack else ""


@dataclass(frozen=True)
class Names:
    """The names of the values of one graph from Dynamo."""

    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    values: Mapping[str, str] = field(default_factory=dict)  # keyed by the name of Dynamo's node

    @classmethod
    def of(cls, gm: GraphModule) -> Names:
        """The names in a graph whose nodes have been named."""
        given, results = gm.graph.find_nodes(op="placeholder"), gm.graph.output_node().args[0]
        values = {node.name: users_name_of(node) for node in gm.graph.nodes}
        return cls([users_name_of(n) for n in given], [users_name_of(o) for o in results], values)

    def of_described(self, description: Any) -> str:
        """The user's name for what AOTAutograd's description refers to; "" if the user cannot know it.

        A tuple describes a value that has several roles.
        """
        if isinstance(description, tuple):
            return " and ".join(dict.fromkeys(filter(None, map(self.of_described, description))))
        words = _DESCRIPTIONS.get(type(description))
        return words(self, description) if words else ""


def is_seen_by_user(description: Any) -> bool:
    """Whether the user's code sees an output."""
    several = description if isinstance(description, tuple) else (description,)
    return any(isinstance(each, (aot.PlainAOTOutput, aot.IntermediateBaseAOTOutput)) for each in several)


def with_descriptions(graph: Graph) -> Iterable[tuple[Any, Any]]:
    """Each output with AOTAutograd's description of it, or None."""
    output = graph.output_node()
    values = output.args[0]
    return zip(values, output.meta.get("desc") or [None] * len(values), strict=True)


def last_of(graph: Graph) -> dict[str, Node]:
    """For each node of Dynamo's graph, by name, the node that holds its value: the last one derived from it."""
    nodes = (n for n in graph.nodes if n.op == "call_function" and n.meta.get("from_node") and not is_size(n))
    return {node.meta["from_node"][0].name: node for node in nodes}


def _at(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else ""


def _about(text: str, field: str) -> Callable[[Names, Any], str]:
    """A name made from that of another input or output."""

    def words(names: Names, description: Any) -> str:
        other = names.of_described(getattr(description, field))
        return text.format(other=other, **vars(description)) if other else ""

    return words


_DESCRIPTIONS: dict[type, Callable[[Names, Any], str]] = {
    aot.PlainAOTInput: lambda names, d: _at(names.inputs, d.idx),
    aot.ParamAOTInput: lambda names, d: d.target,
    aot.BufferAOTInput: lambda names, d: d.target,
    aot.SubclassGetAttrAOTInput: _about("{other}.{attr}", "base"),
    aot.SubclassSizeAOTInput: _about("{other}.shape[{idx}]", "base"),
    aot.ViewBaseAOTInput: _about("{other}", "base_of"),
    aot.SyntheticBaseAOTInput: _about("{other}", "base_of"),
    aot.TangentAOTInput: _about("gradient of {other}", "output"),
    aot.PlainAOTOutput: lambda names, d: _at(names.outputs, d.idx),
    aot.InputMutationAOTOutput: _about("new {other}", "mutated_input"),
    aot.IntermediateBaseAOTOutput: _about("{other}", "base_of"),
    aot.GradAOTOutput: _about("grad of {other}", "grad_of"),
}
