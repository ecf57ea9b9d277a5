"""Every private torch API of this side: fake tensors with sizes of our own, Inductor, and fast tensor checks.

Checked on torch 2.13; the names exist in 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # pragma: no cover
    TensorGuards = None  # type: ignore[assignment,misc]

Boxed = Callable[[list], Sequence[Any]]


class Tracing:
    """A fake tensor mode whose symbolic sizes are chosen by us, with the guards that were taken on them."""

    def __init__(self) -> None:
        self.env = ShapeEnv(duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.symbols: list[sympy.Symbol] = []

    def symbol(self, value: int, name: str) -> sympy.Symbol:
        """A new symbol for a size that is ``value`` now, neither 0 nor 1."""
        source = ConstantSource(f"__accumcompile_{name}")
        positive = True if value > 0 else None
        made = self.env.create_symbol(value, source, DimDynamic.DYNAMIC, positive=positive)
        self.symbols.append(made)
        return made

    def size(self, expr: Any, value: int) -> int | torch.SymInt:
        """The SymInt of an expression in our symbols."""
        if not isinstance(expr, sympy.Expr) or expr.is_number:
            return int(expr)
        return self.env.create_symintnode(expr, hint=value)

    def empty(self, shape: Sequence[Any], stride: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Any:
        """A fake tensor."""
        with self.mode:
            return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype, device=device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Operators run on fake tensors here."""
        with self.mode, torch.no_grad(), enable_python_dispatcher():
            yield

    def guard(self, hints: Mapping[sympy.Symbol, int]) -> Callable[[Sequence[int]], bool] | None:
        """A check of what was assumed about the symbols, given their values in order; None if nothing was."""
        if not self.symbols:
            return None
        sizes: list[Any] = [self.env.create_symintnode(s, hint=hints[s]) for s in self.symbols]
        text = self.env.produce_guards_expression(sizes, ignore_static=False)
        if text is None:
            return None
        evaluate = self.env.evaluate_guards_expression
        return lambda values: bool(evaluate(text, values))


def compile_graph(gm: torch.fx.GraphModule, inputs: Sequence[Any], trace: Tracing, options: Mapping[str, Any]) -> Boxed:
    """Compile a graph of ATen operators; the result takes its arguments in one list, which it empties."""
    from torch._dynamo.convert_frame import compile_lock  # threads compile one at a time
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner

    from . import access_order
    from .random import draw_by_index

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


def decompositions() -> Mapping[Any, Callable]:
    """What Inductor wants operators written as."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def defaults(inputs: Sequence[Any]) -> dict[str, Any]:
    """Our settings of Inductor, which the user's own override.

    Sizes are checked once for each loop instead of once for each micro-batch. On a GPU ``ops.rand`` must be a
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

    0.1 microseconds a tensor; comparing tuples in Python takes 0.7.
    """
    if TensorGuards is None or not tensors:  # pragma: no cover
        return lambda *others: [signature(t) for t in others] == [signature(t) for t in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def signature(value: Any) -> Any:
    """What a compiled graph may depend on in an argument."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return type(value), value
