"""``requires_grad_()`` on a value that a graph computes, such as the output of a frozen embedding.

peft's ``enable_input_require_grads`` calls it in a forward hook, for layers that are checkpointed: their parameters
have gradients only if an input has one. As long as only the graph sees the value, nobody sees its gradient, and the
call changes nothing but flags, which Dynamo answers from its trace. But Dynamo breaks the graph there if an output is
computed of the value, and the loss always is. Here it breaks if the value leaves the graph, or something that requires
a gradient for its sake alone, or if it has a hook. Checked in torch 2.13; where the names are missing, nothing is
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch._dynamo import exc
from torch._dynamo.output_graph import OutputGraph

from . import api as dynamo
from . import replacements, thread_state

_CHECK = "_check_requires_grad_intermediate_outputs"


def _check(check: Callable[..., None], output: Any, results: list, tx: Any) -> None:
    """Called with what a graph is going to return."""
    made = [v for v in output.leaf_var_creation_order if v.source is None]
    if not made or not thread_state.is_tracing_for_us() or dynamo.differentiates(output.graph):
        check(output, results, tx)
    elif _is_seen(made, results, output.graph):
        tx.speculation_log.graph_break_on_requires_grad_ = True
        raise exc.RequiresGradRestartAnalysis(restart_reason="accumcompile: a value is made a leaf, and seen")
    else:
        _forget(output.graph)


if hasattr(OutputGraph, _CHECK) and hasattr(exc, "RequiresGradRestartAnalysis"):
    replacements.replaces(OutputGraph, _CHECK)(_check)


def _is_seen(made: list, results: list, graph: fx.Graph) -> bool:
    """Whether anything outside of the graph can tell that the values ``made`` require gradients, or asks for them."""
    leaves = [_value(v.as_proxy().node) for v in made]
    if any(v.as_proxy().node.graph is not graph or not v.requires_grad for v in made):
        return True  # within a checkpointed function, whose values are others outside; or taken back since
    returned = [v.as_proxy().node for v in results if v.is_tensor()]
    written = graph.find_nodes(op="placeholder")
    through = any(_is_through(_value(node), leaves) for node in (*returned, *written))
    return through or any(_hooks(node, leaves) for node in graph.nodes)


def _value(node: fx.Node) -> Any:
    return node.meta.get("example_value")


def _is_through(value: Any, leaves: list[torch.Tensor]) -> bool:
    """Whether a value requires a gradient only because ``leaves`` do."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return False
    return all(_is_among(source, leaves) for source in _sources(value))


def _sources(value: torch.Tensor) -> Iterator[Any]:
    """Where autograd's walk from a value ends: leaves, and functions that have no other before them."""
    if value.grad_fn is None:
        yield value
    seen, stack = set(), [value.grad_fn]
    while stack:
        function = stack.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        before = [earlier for earlier, _ in function.next_functions if earlier is not None]
        stack += before
        if not before:
            yield getattr(function, "variable", function)


def _is_among(value: Any, leaves: Iterable[torch.Tensor]) -> bool:
    return any(value is leaf for leaf in leaves)


def _hooks(node: fx.Node, leaves: list[torch.Tensor]) -> bool:
    """Whether a node hooks into the gradient of one of ``leaves``."""
    name = getattr(node.target, "__name__", str(node.target))
    return "hook" in name and any(_is_among(_value(given), leaves) for given in node.all_input_nodes)


def _forget(graph: fx.Graph) -> None:
    """Remove the calls, and the permissions around them."""
    for node in reversed(graph.nodes):
        if node.target in ("requires_grad_", torch._C._functorch.set_inplace_requires_grad_allowed):
            graph.erase_node(node)
