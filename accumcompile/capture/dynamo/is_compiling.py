"""Whether torch is compiling, answered for each thread.

torch has one flag for the whole process. An optimizer that steps while another thread compiles takes its path for
compiled code, which keeps its step count in a float32 tensor: AdamW is then 2e-6 off, in float64.
Checked in torch 2.13; where the names are missing, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import replacements
from .thread_state import here

_FLAG, _CONTEXT = "_is_compiling_flag", "_compile_session_context"


class _IsCompiling:
    """True in a thread that compiles."""

    def __bool__(self) -> bool:
        return here.compilations > 0


_is_compiling = _IsCompiling()


@contextmanager
def _compiling() -> Iterator[None]:
    here.compilations += 1
    try:
        yield
    finally:
        here.compilations -= 1


@replacements.also
def _ask_each_thread() -> Callable[[], None]:
    if not hasattr(torch.compiler, _CONTEXT):
        return lambda: None
    setattr(torch.compiler, _FLAG, _is_compiling)
    put_back = replacements.put(torch.compiler, _CONTEXT, _compiling)

    def undo() -> None:
        setattr(torch.compiler, _FLAG, False)  # its value between compilations
        put_back()

    return undo
