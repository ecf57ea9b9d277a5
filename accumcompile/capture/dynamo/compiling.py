"""Whether something is being compiled, asked by each thread for itself.

torch has one answer for the whole process. An optimizer that steps while another thread compiles takes the form that it
has in compiled code, which keeps its count of steps in a float32 tensor: AdamW is 2e-6 off then, in float64.
Checked in torch 2.13; where the names are not there, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import replaced
from .ambient import here

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


@replaced.also
def _ask_each_thread() -> Callable[[], None]:
    if not hasattr(torch.compiler, _CONTEXT):
        return lambda: None
    setattr(torch.compiler, _FLAG, _is_compiling)
    put_back = replaced.put(torch.compiler, _CONTEXT, _compiling)

    def undo() -> None:
        setattr(torch.compiler, _FLAG, False)  # as it is between two compilations
        put_back()

    return undo
