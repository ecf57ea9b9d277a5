"""Inductor's private APIs: its compiler and its settings, and Dynamo's fast check of tensors.

Checked on torch 2.13; the names exist in 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._guards import TracingContext, tracing

from ..tracing import Tracing

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # pragma: no cover
    TensorGuards = None  # type: ignore[assignment,misc]

Boxed = Callable[[list], Sequence[Any]]


def compile_graph(gm: torch.fx.GraphModule, inputs: Sequence[Any], trace: Tracing, options: Mapping[str, Any]) -> Boxed:
    """Compile a graph of ATen operators; the result takes its arguments in one list, which it empties."""
    from torch._dynamo.convert_frame import compile_lock  # threads compile one at a time
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    from . import access_order, stored_values  # noqa: F401  (registers a lowering)
    from .random_draws import draw_by_index

    if any(isinstance(x, torch.Tensor) and x.is_cuda for x in inputs):
        draw_by_index(gm.graph)
    output: Any = gm.graph.output_node()
    output.meta["user_visible_output_idxs"] = range(len(output.args[0]))
    settings = {**defaults(inputs), **options}
    users = settings.get(access_order.HOOK) or getattr(config, access_order.HOOK)
    settings[access_order.HOOK] = access_order.KeptOrder(users)
    with compile_lock, tracing(TracingContext(trace.mode)), config.patch(settings):
        compiled = compile_fx_inner(gm, inputs, cpp_wrapper=config.cpp_wrapper)
    return getattr(compiled, "current_callable", None) or compiled


def defaults(inputs: Sequence[Any]) -> dict[str, Any]:
    """Our settings for Inductor, which the user's override.

    Sizes are checked once per loop instead of once per micro-batch. On a GPU ``ops.rand`` must be a
    function of seed and index alone, which Triton's vectorised form (torch 2.13) is not.
    """
    from torch._inductor import config

    chosen: dict[str, Any] = {"size_asserts": False, "triton.cudagraphs": False}
    on_gpu = any(isinstance(x, torch.Tensor) and x.is_cuda for x in inputs)
    if on_gpu and hasattr(config, "align_random_eager"):
        chosen["align_random_eager"] = True
    return chosen


def tensor_check(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """A fast check that tensors have the dtype, device, sizes and strides of ``tensors``.

    It takes 0.1 microseconds per tensor; comparing tuples in Python takes 0.7.
    """
    if TensorGuards is None or not tensors:  # pragma: no cover
        return lambda *others: [signature(t) for t in others] == [signature(t) for t in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def signature(value: Any) -> Any:
    """What a compiled graph may depend on in an argument."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return type(value), value
