"""Whether something is being compiled, asked by each thread for itself.

torch has one answer for the whole process. An optimizer that steps while another thread compiles takes the form that it
has in compiled code, which keeps its count of steps in a float32 tensor: AdamW is 2e-6 off then, in float64.
Checked in torch 2.13; where the names are not there, nothing is changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from . import replaced

_FLAG, _SESSION = "_is_compiling_flag", "_compile_session_context"


class _Here(threading.local):
    """True in a thread that compiles."""

    sessions = 0

    def __bool__(self) -> bool:
        return self.sessions > 0


_here = _Here()


@contextmanager
def _session() -> Iterator[None]:
    _here.sessions += 1
    try:
        yield
    finally:
        _here.sessions -= 1


@replaced.also
def _ask_each_thread() -> Callable[[], None]:
    if not hasattr(torch.compiler, _SESSION):
        return lambda: None
    setattr(torch.compiler, _FLAG, _here)
    put_back = replaced.put(torch.compiler, _SESSION, _session)

    def undo() -> None:
        setattr(torch.compiler, _FLAG, False)  # as it is between two compilations
        put_back()

    return undo
