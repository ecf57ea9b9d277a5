"""What the inputs and outputs of a graph are called: as the user's program calls them.

Dynamo says where an input comes from (``L['model']._modules['0']._parameters['weight']``) and names a node
after the variable that holds it; AOTAutograd describes what it makes of both
(``GradAOTOutput(grad_of=PlainAOTInput(idx=0))``).
Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from ..where import user_frame
from . import dynamo

_NUMBER = re.compile(r"_\d+$")  # sets a variable apart from others of its name
CALLED = "called"  # in the meta of a node of Dynamo's graph: what the user calls it

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


def name_inputs(gm: GraphModule) -> None:
    """Write down the names of a graph's inputs, whose sources Dynamo forgets after the capture."""
    for given in dynamo.inputs(gm):
        given.node.meta[CALLED] = of_source(given.name)


def called(node: Any) -> str:
    """What the user calls a node of Dynamo's graph."""
    return node.meta.get(CALLED) or of_value(node.name, node.meta) if isinstance(node, Node) else ""


def of_value(variable: str, meta: Mapping[str, Any]) -> str:
    """The variable that Dynamo named a node after, if it is the user's; else the module whose value it is.

    A variable inside an installed package, such as the ``input`` of ``nn.Sequential``, is none of the user's:
    it does not stand in the user's line.
    """
    frame = user_frame(meta.get("stack_trace"))
    if frame is not None and re.search(rf"\b{re.escape(_NUMBER.sub('', variable))}\b", frame.code):
        return variable
    module = of_module(meta)
    return f"{module}'s output" if module else variable


def of_module(meta: Mapping[str, Any]) -> str:
    """The innermost module in whose ``forward`` a node stands."""
    stack = meta.get("nn_module_stack")
    return of_source(list(stack.values())[-1][0]) if stack else ""


@dataclass(frozen=True)
class Names:
    """The names of the inputs and outputs of one graph from Dynamo."""

    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()

    @classmethod
    def of(cls, gm: GraphModule) -> Names:
        """The names in a graph whose inputs have been named."""
        given = gm.graph.find_nodes(op="placeholder")
        return cls([called(n) for n in given], [called(o) for o in gm.graph.output_node().args[0]])

    def of_described(self, description: Any) -> str:
        """What AOTAutograd's description of an input or output means; "" where that is nothing to a user.

        A tuple describes a value that is several things.
        """
        if isinstance(description, tuple):
            return " and ".join(dict.fromkeys(filter(None, map(self.of_described, description))))
        words = _DESCRIPTIONS.get(type(description).__name__)
        return words(self, description) if words else ""


def is_users(description: Any) -> bool:
    """Whether an output is one that the user's code sees."""
    several = description if isinstance(description, tuple) else (description,)
    return any(type(each).__name__ in ("PlainAOTOutput", "IntermediateBaseAOTOutput") for each in several)


def _at(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else ""


def _about(text: str, field: str) -> Callable[[Names, Any], str]:
    """The words for something that belongs to another input or output."""

    def words(names: Names, description: Any) -> str:
        other = names.of_described(getattr(description, field))
        return text.format(other=other, **vars(description)) if other else ""

    return words


_DESCRIPTIONS: dict[str, Callable[[Names, Any], str]] = {
    "PlainAOTInput": lambda names, d: _at(names.inputs, d.idx),
    "ParamAOTInput": lambda names, d: d.target,
    "BufferAOTInput": lambda names, d: d.target,
    "SubclassGetAttrAOTInput": _about("{other}.{attr}", "base"),
    "SubclassSizeAOTInput": _about("{other}.shape[{idx}]", "base"),
    "ViewBaseAOTInput": _about("{other}", "base_of"),
    "SyntheticBaseAOTInput": _about("{other}", "base_of"),
    "TangentAOTInput": _about("gradient of {other}", "output"),
    "PlainAOTOutput": lambda names, d: _at(names.outputs, d.idx),
    "InputMutationAOTOutput": _about("new {other}", "mutated_input"),
    "IntermediateBaseAOTOutput": _about("{other}", "base_of"),
    "GradAOTOutput": _about("grad of {other}", "grad_of"),
}
