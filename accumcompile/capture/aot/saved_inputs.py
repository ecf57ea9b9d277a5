"""The inputs that a graph saves for its backward: those that eager saves, and copies of others that may change unseen.

Eager saves the operands that a backward reads, uncopied, and autograd raises an error if one is changed in place. All
other inputs may change between forward and backward. The fused road has its gradients by then and needs no inputs, but
saves what eager saves, so that the same error is raised. The two-pass road recomputes the forward and reads more than
eager: it saves copies of those inputs, except where they cost too much to copy and seldom change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...ir.operands import ancestors, is_view, outputs
from . import api as aot_api

# Only small parameters are copied, such as biases and temperatures. A larger one that no backward reads is an
# embedding or frozen: changing it in place before the backward raises autograd's error.
SMALL = 1 << 16  # bytes


@dataclass(frozen=True)
class Changeable:
    """Positions of the inputs of a graph that the user's code may change before its backward.

    Non-leaf tensors are left out: they are made by the step, as large as the batch, and freed with their variables.
    """

    given: frozenset[int] = frozenset()
    copied: frozenset[int] = frozenset()  # those to save as a copy where eager saves nothing

    @classmethod
    def of(cls, inputs: Sequence[object]) -> Changeable:
        """The changeable ones among a graph's real inputs."""
        given = {i: v for i, v in enumerate(inputs) if isinstance(v, torch.Tensor) and v.is_leaf}
        large = {i for i, v in given.items() if isinstance(v, torch.nn.Parameter) and v.nbytes > SMALL}
        return cls(frozenset(given), frozenset(given.keys() - large))


NOTHING = Changeable()


def read_backwards(joint: GraphModule) -> set[int]:
    """Positions of the inputs that the backward reads, directly or as views, in a joint graph as it was traced.

    (Later passes replace ``queue.clone()`` by the queue itself.)
    """
    backward = aot_api.backward_nodes(joint)
    return {i for i, n in aot_api.given(joint).items() if any(backward & v.users.keys() for v in _views(n))}


def _views(node: Node) -> list[Node]:
    """An input and the views of it."""
    views = [node]
    for value in views:
        views += [user for user in value.users if is_view(user) and user.all_input_nodes[0] is value]
    return views


def needed_backwards(joint: GraphModule, num_fwd_outputs: int) -> set[Node]:
    """The gradients of a joint graph, and the nodes that they are computed from."""
    gradients = {g for g in outputs(joint)[num_fwd_outputs:] if isinstance(g, Node)}
    return gradients | ancestors(*gradients)


def handing_over(run: Callable[[list], list], positions: Sequence[int]) -> Callable[[list], list]:
    """``run``, a boxed callable, with its arguments at ``positions`` appended to its results."""

    def boxed(arguments: list) -> list:
        handed = [arguments[i] for i in positions]
        return [*run(arguments), *handed]

    handing: Any = boxed
    handing._boxed_call = True
    return handing
