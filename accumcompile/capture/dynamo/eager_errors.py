"""Eager's error for an operator that Dynamo could not trace, found by running it on zeros of the real shapes.

Tracing reports a wrong shape in other words than eager, and with symbols in place of numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import preserve_rng_state
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

CALLS = ("call_function", "call_method")


class _Unknown(Exception):
    """A value that nothing can stand in for."""


@dataclass(frozen=True)
class Tried:
    """An operator that fails in eager: the exception, and what it was given."""

    error: Exception
    given: str


def tried(graph: fx.Graph) -> Tried | None:
    """Eager's exception for the operator that is being added to ``graph``; None if there is none, or it is unknown."""
    node = next(iter(reversed(graph.nodes)), None)
    if node is None or node.op not in CALLS or "example_value" in node.meta:
        return None
    with ExitStack() as stack:
        stack.enter_context(_disable_current_modes())
        stack.enter_context(preserve_rng_state())
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # the trace has already given them
        try:
            args, kwargs = fx.map_arg((node.args, node.kwargs), _stand_in)
        except (_Unknown, torch.OutOfMemoryError):
            return None
        error = _error_of(node, args, kwargs)
    return None if error is None else Tried(error, _described((args, kwargs)))


def _error_of(node: fx.Node, args: tuple, kwargs: Mapping[str, Any]) -> Exception | None:
    target: Any = node.target
    try:
        if node.op == "call_method":
            getattr(args[0], target)(*args[1:], **kwargs)
        else:
            target(*args, **kwargs)
    except torch.OutOfMemoryError:
        return None
    except Exception as error:
        return error
    return None


def _stand_in(node: fx.Node) -> Any:
    return pytree.tree_map(_real, node.meta.get("example_value", node))


def _real(value: Any) -> Any:
    """A real value for a traced one: for a tensor, zeros of its shape, strides, dtype and device."""
    if type(value) in (FakeTensor, torch.nn.Parameter) and value.layout is torch.strided:
        strides = [_number(s) for s in value.stride()]
        zeros = torch.empty_strided([_number(s) for s in value.shape], strides, dtype=value.dtype, device=value.device)
        return zeros.zero_()
    if isinstance(value, (torch.Tensor, fx.Node)):
        raise _Unknown
    return _number(value)


def _number(value: Any) -> Any:
    """The value of a traced number in this call."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    if value.node.hint is None:
        raise _Unknown
    return value.node.hint


def _described(given: Any) -> str:
    tensors = [x for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
    return ", ".join(f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
