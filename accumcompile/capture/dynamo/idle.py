"""Functions in which there is nothing to split run as they are after a few captures, whatever their guards say.

Behind the last backward a step keeps books in Python: it reads the list of its losses, and would be captured again for
each length of that. Such a function makes no graph worth capturing, and its captures end where it does: nothing that it
leads to is lost. Should it ever differentiate something, the safety net looks at that.
"""

from __future__ import annotations

import sys
from types import CodeType

from torch._dynamo.types import ConvertFrameReturn, FrameAction, FrameExecStrategy

CAPTURES = 4  # for a branch that is seldom taken, and numbers that vary from the second call on
_captured: dict[int, tuple[CodeType, int]] = {}  # by id: code objects are not always hashable


def is_idle(code: CodeType) -> bool:
    """Whether a function has been captured often enough for nothing."""
    return _captured.get(id(code), (code, 0))[1] >= CAPTURES


def count(code: CodeType, result: ConvertFrameReturn, worth: bool) -> None:
    """A function has been captured; ``worth``: with a graph to split, or that a backward may go through."""
    if worth:
        _captured[id(code)] = code, -sys.maxsize
    elif result.guarded_code is not None and not _goes_on(result.guarded_code.code):
        _captured[id(code)] = code, _captured.get(id(code), (code, 0))[1] + 1


def as_it_is() -> ConvertFrameReturn:
    """Dynamo leaves this one call of a function alone, and captures what it calls."""
    return ConvertFrameReturn(FrameExecStrategy(FrameAction.SKIP, FrameAction.DEFAULT), apply_to_code=False)


def _goes_on(captured: CodeType) -> bool:
    """Whether what Dynamo made of a function calls what is behind a break of its graph."""
    return any("__resume_at" in name for name in captured.co_names)
