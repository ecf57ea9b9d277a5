"""Functions with nothing to split run uncaptured after a few captures, whatever their guards say.

After the last backward a step does bookkeeping in Python: it reads the list of its losses, and would be captured again
for each length of that list. Such a function makes no graph worth capturing, and its captures end without a graph
break, so no code after a break is lost. If it ever differentiates something, the safety net checks that.
"""

from __future__ import annotations

import sys
from types import CodeType

from torch._dynamo.types import ConvertFrameReturn, FrameAction, FrameExecStrategy

CAPTURES = 4  # allows for a rare branch, and for numbers that vary from the second call on
_captured: dict[int, tuple[CodeType, int]] = {}  # by id: code objects are not always hashable


def is_idle(code: CodeType) -> bool:
    """Whether a function has been captured often enough with nothing to split."""
    return _captured.get(id(code), (code, 0))[1] >= CAPTURES


def count(code: CodeType, result: ConvertFrameReturn, worth: bool) -> None:
    """Count a capture of a function; ``worth``: it has a graph to split, or one that a backward may go through."""
    if worth:
        _captured[id(code)] = code, -sys.maxsize
    elif result.guarded_code is not None and not _goes_on(result.guarded_code.code):
        _captured[id(code)] = code, _captured.get(id(code), (code, 0))[1] + 1


def as_it_is() -> ConvertFrameReturn:
    """Have Dynamo skip this one call of a function, and capture the functions that it calls."""
    return ConvertFrameReturn(FrameExecStrategy(FrameAction.SKIP, FrameAction.DEFAULT), apply_to_code=False)


def _goes_on(captured: CodeType) -> bool:
    """Whether a captured function goes on in a resume function, after a graph break."""
    return any("__resume_at" in name for name in captured.co_names)
