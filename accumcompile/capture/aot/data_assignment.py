"""``p.data = value``: the tensor's new storage becomes an ordinary output of the graph.

Dynamo traces it as ``set_``, and restores the version counter; from torch 2.15 on as one operator. AOTAutograd refuses
to trace either for an input that is changed otherwise too. So the new value becomes an output of Dynamo's graph, and is
assigned after the graph has run; nodes after the assignment read that value, and gradients still go to the tensor.

    set_ = Tensor.set_(p, v); y = linear(x, p);   return (y,)
    now = _assigned(p, v);    y = linear(x, now); return (y, now.detach())     and then p.data is set to the last

Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...passes.rewriting import copied
from .detaching import detach

_ASSIGNING = {torch.Tensor.set_, getattr(torch.ops.aten, "shallow_copy_data_", torch.Tensor.set_)}


@dataclass(frozen=True)
class Assignment:
    """The input at ``position`` gets the storage of the output at ``index``."""

    position: int
    index: int


def made_outputs(gm: GraphModule) -> tuple[GraphModule, list[Assignment]]:
    """Dynamo's graph without changes of an input's storage, and the assignments to make after it has run."""
    if not any(map(_assigns, gm.graph.nodes)):
        return gm, []
    gm = copied(gm)
    given = {node: i for i, node in enumerate(gm.graph.find_nodes(op="placeholder"))}
    of = dict(given)  # from each value that stands for an input to the input's position
    last: dict[int, Node] = {}
    for node in list(filter(_assigns, gm.graph.nodes)):
        tensor, value = node.args
        if tensor in of:
            _take_lowering(gm, node)
            now = _replace(gm, node, tensor, value)
            of[now] = of[tensor]
            last[of[tensor]] = now
    output = gm.graph.output_node()
    results = list(output.args[0])
    assigned = []
    for position, now in last.items():
        assigned.append(Assignment(position, len(results)))
        results.append(detach(gm, now, output))
    output.args = (tuple(results),)
    gm.recompile()
    return gm, assigned


def assigning(run: Callable[..., Any], assigned: list[Assignment]) -> Callable[..., Any]:
    """``run``, whose last results are assigned to inputs instead of returned."""
    if not assigned:
        return run

    def runs_assigning(*inputs: Any) -> list[Any]:
        results = list(run(*inputs))
        for each in assigned:
            inputs[each.position].data = results[each.index]
        return results[: -len(assigned)]

    return runs_assigning


def _assigns(node: Node) -> bool:
    """Whether a node of Dynamo's graph gives a tensor the storage of another."""
    return node.target in _ASSIGNING and len(node.args) == 2 and isinstance(node.args[1], Node)


def _take_lowering(gm: GraphModule, node: Node) -> None:
    """Remove the nodes with which Dynamo restores the version counter after ``set_``."""
    for user in [u for u in node.users if getattr(u.target, "__name__", "") == "_lower_version_count_by_1"]:
        user.replace_all_uses_with(node)
        gm.graph.erase_node(user)


def _replace(gm: GraphModule, node: Node, tensor: Node, value: Node) -> Node:
    """Have every node after an assignment read the new value."""
    with gm.graph.inserting_before(node):
        now = gm.graph.call_function(_assigned, (tensor, value))
    now.meta |= node.meta
    node.replace_all_uses_with(now)
    gm.graph.erase_node(node)
    order = {n: i for i, n in enumerate(gm.graph.nodes)}
    tensor.replace_all_uses_with(now, delete_user_cb=lambda user: order[user] > order[now])
    return now


def _assigned(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The tensor after the assignment; Dynamo traces that under no_grad, so grad mode is enabled here."""
    with torch.enable_grad():
        return _Assigned.apply(tensor, value) if tensor.requires_grad else value.detach()


class _Assigned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, value):
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None
