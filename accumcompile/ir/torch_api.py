"""PyTorch names without a public API that graphs are built from.

Operators, sizes, fake tensors, pytrees, and AOTAutograd's descriptions of a graph's inputs and outputs. The only
module below capture and lowering that imports such names. Checked on torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import sympy
import torch
import torch._inductor.inductor_prims  # registers the prims that randomness is rewritten to
from torch._functorch._aot_autograd import descriptors
from torch._guards import detect_fake_mode
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._sympy import functions as sizes
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod, PythonMod
from torch.utils._sympy.symbol import SymT, symbol_is_type

__all__ = [
    "CleanDiv",
    "FakeTensor",
    "FloorDiv",
    "Mod",
    "OpOverload",
    "OpOverloadPacket",
    "PythonMod",
    "TorchDispatchMode",
    "decompositions",
    "descriptors",
    "graph_of",
    "in_fake_mode",
    "is_composite",
    "is_traceable_wrapper_subclass",
    "is_unbacked",
    "of_custom",
    "pytree",
    "sizes",
    "storage_of",
]


def in_fake_mode(tensors: Any) -> AbstractContextManager:
    """A fake tensor mode for running operators: that of the ``tensors``, or else the active one."""
    for leaf in pytree.tree_leaves(tensors):
        if isinstance(leaf, FakeTensor):
            return leaf.fake_mode
    return detect_fake_mode() or nullcontext()


def decompositions() -> dict[Any, Callable]:
    """Inductor's decomposition table."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def is_composite(op: OpOverload) -> bool:
    """Whether an operator is CompositeImplicitAutograd: it is decomposed before it reaches a graph."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return composite in op.py_kernels or op.has_kernel_for_dispatch_key(composite)


def storage_of(tensor: torch.Tensor) -> Any:
    """What owns a tensor's memory: its storage; the tensor itself where a transform has wrapped one."""
    return tensor.untyped_storage() if torch._C._has_storage(tensor) else tensor


def is_unbacked(symbol: Any) -> bool:
    """Whether a symbol stands for a number that depends on data, such as the number of true elements of a mask."""
    return isinstance(symbol, sympy.Symbol) and symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT))


def of_custom(op: Any) -> Any:
    """The overload behind what ``torch.library.custom_op`` returns; anything else is itself."""
    return getattr(op, "_opoverload", op)


def graph_of(fn: Callable, *examples: Any) -> torch.fx.GraphModule:
    """``fn`` traced to a graph, with Inductor's decompositions applied."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(fn, decomposition_table=decompositions())(*examples)
