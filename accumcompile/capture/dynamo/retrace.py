"""Tracing a frame again, with more of its sizes and numbers as symbols. Checked in torch 2.11, 2.13 and 2.15.

A backend has no other way: it is first called after a trace, too late to change Dynamo's settings for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import torch
from torch._dynamo import config, exc
from torch._dynamo.convert_frame import compile_lock
from torch._guards import CompileContext
from torch._subclasses.fake_tensor import DataDependentOutputException

from ...diagnostics import where
from . import breaks
from .api import patcher
from .marks import mark, unmark
from .thread_state import Retrace, here
from .zero_dim_floats import forget_floats

# A frame that received the batch size as a plain int is traced again with these.
EVERY_SIZE_SYMBOLIC: dict[str, Any] = {"assume_static_by_default": False, "use_duck_shape": False}

# A frame whose graph reads a number off a tensor (the start of x.narrow(1, start, 2)) is traced again with these.
NUMBERS_OF_TENSORS_SYMBOLIC: dict[str, Any] = {"capture_scalar_outputs": True}


class _Restart(exc.TensorifyScalarRestartAnalysis, exc.UnspecializeRestartAnalysis):
    """The first base is a restart that a backend may raise; the second makes Dynamo forget its path so far."""


def retrace(dims: Iterable[tuple[torch.Tensor, int]]) -> None:
    """Have Dynamo trace the current frame again with symbolic ``dims``; return if that was tried already."""
    now = _retrace_of_frame()
    fresh = [(t, d) for t, d in dims if d not in getattr(t, "_dynamo_weak_dynamic_indices", ())]
    if now.tries >= 2 or (now.tries == 1 and not fresh and not config.assume_static_by_default):
        return
    for tensor, dim in fresh:
        now.undo.callback(mark(tensor, dim))
    if not fresh:
        now.undo.callback(patcher(EVERY_SIZE_SYMBOLIC)())
    now.tries += 1
    raise _Restart(restart_reason="accumcompile: the batch size must be symbolic")


def retrace_along(
    before: Iterable[tuple[torch.Tensor, int]], now: Iterable[tuple[torch.Tensor, int]], marks: ExitStack
) -> NoReturn:
    """Have Dynamo trace the current frame again with other dims symbolic; ``marks`` undoes their marks."""
    current = _retrace_of_frame()
    current.undo.close()
    current.tries = 0
    for tensor, _ in before:
        unmark(tensor)
    for tensor, dim in now:
        marks.callback(mark(tensor, dim))
    raise _Restart(restart_reason="accumcompile: another input is the batch")


def frame() -> object:
    """What tells the frame that Dynamo is capturing, however often it traces it, from others."""
    return _retrace_of_frame().frame


def retrace_if_floats_are_left() -> None:
    """Have Dynamo trace the current frame again, once, if it was traced with float state of an earlier capture.

    For the backend found by name; a decorated call clears that state before Dynamo begins.
    """
    now = _retrace_of_frame()
    if not now.has_forgotten and forget_floats():
        now.has_forgotten = True
        raise _Restart(restart_reason="accumcompile: floats of an earlier capture")


def reads_lists() -> bool:
    """Whether the current frame is traced again because it reads a list that it appends to."""
    return _retrace_of_frame().reads_lists


def read_lists() -> None:
    """Have Dynamo trace the current frame again, as it reads a list that it appends to."""
    _retrace_of_frame().reads_lists = True
    raise _Restart(restart_reason="accumcompile: a list is appended to and read")


def _retrace_of_frame() -> Retrace:
    """The retrace of the current frame, begun if there is none."""
    frame, now = CompileContext.current_compile_id(), here.retrace
    if now is None or now.frame != frame:
        end_retrace()
        now = here.retrace = Retrace(frame, ExitStack())
    return now


@contextmanager
def last_trace() -> Iterator[None]:
    """Undo a retrace's marks and settings at the end, unless Dynamo is about to restart the trace."""
    try:
        yield
    except exc.RestartAnalysis:
        raise
    except BaseException:
        end_retrace()
        raise
    end_retrace()


@contextmanager
def numbers_of_tensors() -> Iterator[None]:
    """If a graph reads a number off a tensor, have Dynamo trace its frame again with that number as a symbol."""
    try:
        yield
    except DataDependentOutputException:
        if config.capture_scalar_outputs:
            raise
        _retrace_of_frame().undo.callback(patcher(NUMBERS_OF_TENSORS_SYMBOLIC)())
        raise _Restart(restart_reason="accumcompile: a number comes from a tensor") from None


def retrace_with_break(line: where.Frame, reason: str) -> None:
    """Have Dynamo trace the current frame again, with a break at a line; return if that was tried already."""
    if CompileContext.current_compile_id() is not None and breaks.break_at(line, reason):
        raise _Restart(restart_reason="accumcompile: a line cannot be traced")


def end_retrace() -> None:
    """Undo a retrace's marks and settings, and clear Dynamo's float state."""
    now, here.retrace = here.retrace, None
    forget_floats()
    if now is not None:
        now.undo.close()


def end_left_retrace() -> None:
    """The same for a retrace that an error left behind, after waiting for other threads' captures."""
    if here.retrace is not None:
        with compile_lock:
            end_retrace()
