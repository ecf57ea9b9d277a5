"""What Dynamo must skip while a decorated step is called, and what it must report.

Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch._dynamo import convert_frame
from torch._dynamo.types import ConvertFrameReturn, FrameAction, FrameExecStrategy

from ...diagnostics import where
from . import api as dynamo

# Those not used below are imported for the torch functions that they replace.
from . import (  # noqa: F401
    bound_methods,
    breaks,
    idle_functions,
    is_compiling,
    log_filter,
    nn_containers,
    optimizers,
    python_lists,
    recompile_limit,
    replacements,
    required_grads,
    vmap_chunks,
    zero_dim_floats,
)
from .break_reasons import Reason
from .thread_state import here

in_place = replacements.in_place  # installs all of these

# The code of what torch.func.vmap returns: Dynamo meets it as a frame only if no graph could hold it (vmap_chunks.py).
VMAP_CODE = next(c for c in torch.func.vmap.__code__.co_consts if getattr(c, "co_name", "") == "wrapped")


@replacements.replaces(convert_frame.CatchErrorsWrapper, "__call__")
def _convert(convert: Callable[..., ConvertFrameReturn], self: Any, *args: Any) -> ConvertFrameReturn:
    """Skip optimizer steps, uncaptured vmaps and idle functions; clear the float state of earlier captures."""
    call, code = here.call, args[0].f_code
    if call is None or not dynamo.is_ours(self):
        return convert(self, *args)
    if code is VMAP_CODE or optimizers.is_within_step(code):
        return ConvertFrameReturn(FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP), apply_to_code=False)
    if idle_functions.is_idle(code):
        call.watch.idle = True
        return idle_functions.as_it_is()
    with convert_frame.compile_lock:
        zero_dim_floats.forget_floats()
        graphs = call.watch.graphs
        result = convert(self, *args)
        idle_functions.count(code, result, worth=call.watch.graphs != graphs)
    return result


@replacements.replaces(convert_frame, "format_error_msg")
def _format_error_msg(format_: Callable[..., str], exc: Exception, code: Any, *args: Any, **kwargs: Any) -> str:
    """Record that Dynamo drops a function: it formats the error that made it do so."""
    if here.call is not None:
        reason = Reason.of(str(getattr(exc, "msg", exc)), getattr(exc, "real_stack", None), where.named(code.co_name))
        if reason.frame is None and reason.library is None:
            reason = replace(reason, frame=where.user_frame(str(exc.__cause__)))
        if reason.frame is not None or reason.library is not None:
            here.call.watch.drop(code, reason)
    return format_(exc, code, *args, **kwargs)
