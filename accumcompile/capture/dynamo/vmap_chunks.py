"""A ``torch.func.vmap`` over the batch that is not captured runs in chunks of a micro-batch. Checked in torch 2.13.

vmap's function takes one sample by construction, so chunking is splitting, and per-sample gradients cost the
activations of a micro-batch. It can go uncaptured because many of vmap's batching rules make sizes constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch import apis
from torch._functorch.vmap import _process_batched_inputs

from . import replacements
from .call_history import Calls
from .thread_state import Call, here


@replacements.replaces(apis, "vmap_impl")
def _vmap_impl(
    vmap_impl: Callable[..., Any],
    func: Any,
    in_dims: Any,
    out_dims: Any,
    randomness: str,
    chunk: int | None,
    *args: Any,
    **kw: Any,
) -> Any:
    """``vmap``, in chunks of a micro-batch unless the user chose their size."""
    if torch.compiler.is_compiling() or here.call is None or here.call.in_chunk:
        return vmap_impl(func, in_dims, out_dims, randomness, chunk, *args, **kw)
    call, rows = here.call, chunk or _rows(here.call, func, in_dims, randomness, args)
    call.in_chunk = rows is not None
    try:
        return vmap_impl(func, in_dims, out_dims, randomness, rows, *args, **kw)
    finally:
        call.in_chunk = False


def _rows(call: Call, func: Any, in_dims: Any, randomness: str, args: tuple) -> int | None:
    """The samples of a micro-batch, if vmap maps over the batch and does not draw different numbers per sample."""
    if randomness == "different":
        return None
    size, *_ = _process_batched_inputs(in_dims, args, func)
    if size != call.batch:
        return None
    call.session.part(Calls).differentiate = True  # perhaps, and nothing else would show it
    return call.session.options.rows(size)
