"""Keeps 0-dim tensors from being taken for Python floats. Checked in torch 2.11 and 2.13.

Dynamo assumes that a 0-dim float64 CPU tensor may stand for a Python float. If nothing reads it as one, AOTAutograd has
the frame traced again, and in that second trace Dynamo drops in-place changes of the tensor (``ema.lerp_(loss, 0.1)``),
under plain ``torch.compile`` too: the buffer silently keeps its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import fx
from torch._dynamo.symbolic_convert import TensorifyState
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.symbol import SymT, symbol_is_type


@contextmanager
def tensors_stay_tensors(gm: fx.GraphModule) -> Iterator[None]:
    """Within the block, no frame is traced again because of a tensor input whose number ``gm`` never reads."""
    with _never_again_for(_numbers_never_read(gm)):
        yield


@contextmanager
def no_frame_again(sizes: ShapeEnv) -> Iterator[None]:
    """Within the block, no frame is traced again because of a float: for capturing a graph after Dynamo is done."""
    with _never_again_for(str(s) for s in sizes.backed_var_to_val if symbol_is_type(s, SymT.FLOAT)):
        yield


def forget_floats() -> bool:
    """Clear Dynamo's float state, whose symbol names other captures reuse; returns whether there was any."""
    had_any = bool(TensorifyState.force_specializations)
    TensorifyState.clear()
    return had_any


@contextmanager
def _never_again_for(floats: Iterable[str]) -> Iterator[None]:
    fresh = set(floats) - TensorifyState.force_specializations
    TensorifyState.force_specializations |= fresh
    try:
        yield
    finally:
        TensorifyState.force_specializations -= fresh


def _numbers_never_read(gm: fx.GraphModule) -> Iterator[str]:
    for node in gm.graph.find_nodes(op="placeholder"):
        value = node.meta.get("example_value")
        number = getattr(value, "item_memo", None) if isinstance(value, torch.Tensor) else None
        if isinstance(number, torch.SymFloat) and not any(user.target == "item" for user in node.users):
            yield str(number.node._expr)
