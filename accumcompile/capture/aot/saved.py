"""What a graph keeps of its inputs until its backward: what eager keeps, and copies of what may change unseen.

Eager keeps the operands that a backward reads, uncopied, and a change of one in place is an error of autograd's. All
else may change between forward and backward. The fused road has its gradients by then and needs nothing, but keeps
what eager keeps, so that the same error comes. The two-pass road computes the forward again and reads more than eager:
of that it keeps a copy, but for what costs too much to copy and seldom changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...ir.operands import ancestors, is_view, outputs
from . import api as aot_api

# Of parameters only the small ones are copied, such as biases and temperatures. A larger one that no backward reads
# is an embedding or frozen: who changes it in place before the backward gets autograd's error.
SMALL = 1 << 16  # bytes


@dataclass(frozen=True)
class Changeable:
    """Inputs of a graph that a user's code may change before its backward, by position.

    A value with a past on the tape is none: it is made by the step, as large as the batch, and gone without its name.
    """

    given: frozenset[int] = frozenset()
    copied: frozenset[int] = frozenset()  # those of which a copy is kept where eager keeps nothing

    @classmethod
    def of(cls, inputs: Sequence[object]) -> Changeable:
        """Among a graph's real inputs."""
        given = {i: v for i, v in enumerate(inputs) if isinstance(v, torch.Tensor) and v.is_leaf}
        large = {i for i, v in given.items() if isinstance(v, torch.nn.Parameter) and v.nbytes > SMALL}
        return cls(frozenset(given), frozenset(given.keys() - large))


NOTHING = Changeable()


def read_backwards(joint: GraphModule) -> set[int]:
    """Positions of the inputs that the backward reads themselves, in a joint graph as it was traced.

    (Rewriting takes ``queue.clone()`` for the queue.)
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
    """What the gradients are computed from, in a joint graph."""
    gradients = {g for g in outputs(joint)[num_fwd_outputs:] if isinstance(g, Node)}
    return gradients | ancestors(*gradients)


def handing_over(run: Callable[[list], list], positions: Sequence[int]) -> Callable[[list], list]:
    """``run``, a boxed callable, whose results are followed by those of its arguments."""

    def boxed(arguments: list) -> list:
        handed = [arguments[i] for i in positions]
        return [*run(arguments), *handed]

    handing: Any = boxed
    handing._boxed_call = True
    return handing
