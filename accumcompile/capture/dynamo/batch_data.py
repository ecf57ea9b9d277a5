"""What a graph without the batch's size computes on data of the batch: nothing marks it, and it would run whole.

Whatever reached a frame by another way than from a module, an optimizer or the step's own arguments may be derived
from the batch: samples picked or unpadded outside the graphs, a loss's inputs made in plain Python.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
import torch
from torch import fx

from ..batch import graph_outputs
from . import api as dynamo
from .api import Input
from .thread_state import Call


def derived(inputs: list[Input], call: Call) -> list[Input]:
    """The inputs that may be derived from the batch, though none of their sizes is known to be its."""
    return [given for given in inputs if _is_derived(given, call)]


def largest_rows(inputs: list[Input], call: Call) -> list[Input]:
    """The largest of the derived inputs, and those with as many rows."""
    rows = [given for given in derived(inputs, call) if given.value.shape[0] > 1]
    largest = max(rows, key=lambda given: given.value.nbytes, default=None)
    return [given for given in rows if largest is not None and given.value.shape[0] == largest.value.shape[0]]


def _is_derived(given: Input, call: Call) -> bool:
    value = given.value
    if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter) or value.dim() == 0:
        return False
    if id(value) in call.leaves or graph_outputs.is_summary(value):
        return False
    return dynamo.is_argument(given.source) and not dynamo.is_owned(given.source)


def trains(inputs: list[Input]) -> bool:
    """Whether a backward through the graph reaches a parameter."""
    return torch.is_grad_enabled() and any(
        isinstance(given.value, torch.nn.Parameter) and given.value.requires_grad for given in inputs
    )


def sizes_given(gm: fx.GraphModule, call: Call) -> set[sympy.Symbol]:
    """The symbols of the batch size among a graph's inputs, where it is a number."""
    sizes = (node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder"))
    symbolic = [s for s in sizes if isinstance(s, torch.SymInt) and s.node.has_hint() and s.node.hint == call.batch]
    return {s.node.expr for s in symbolic if s.node.expr.is_Symbol}


def makes_batch(gm: fx.GraphModule, call: Call) -> bool:
    """Whether a graph that trains makes a tensor of the batch's size, which is a constant there, of no other tensor."""
    return trains(dynamo.inputs(gm)) and any(_makes(node, call.batch) for node in gm.graph.nodes)


def _makes(node: fx.Node, batch: int) -> bool:
    value = node.meta.get("example_value")
    made = node.op == "call_function" and not node.all_input_nodes and isinstance(value, torch.Tensor)
    return made and batch in value.shape


def computed_from_batch(gm: fx.GraphModule, call: Call) -> list[fx.Node]:
    """The nodes of a graph that compute on data of the batch, if it trains a parameter."""
    inputs = dynamo.inputs(gm)
    return list(_computed(gm, inputs, call)) if trains(inputs) else []


def _computed(gm: fx.GraphModule, inputs: list[Input], call: Call) -> Iterator[fx.Node]:
    reached = {given.node for given in inputs if _is_data(given, call)}
    reached |= {node for node in gm.graph.nodes if _makes(node, call.batch)}
    for node in gm.graph.nodes:
        if node.op in ("call_function", "call_method", "call_module") and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            yield node


def _is_data(given: Input, call: Call) -> bool:
    leaf = call.leaves.get(id(given.value))
    carries = leaf is not None and (leaf.dim is not None or leaf.sampled)
    return carries or _is_derived(given, call) or graph_outputs.dim_of(given.value) is not None
