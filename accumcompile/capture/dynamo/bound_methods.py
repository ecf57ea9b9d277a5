"""A bound method has ``__func__`` and ``__self__``: Dynamo asks the function inside for them, which has neither.

So ``getattr(method, "__func__", None)`` is None in a captured step, silently. Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._dynamo.variables import ConstantVariable
from torch._dynamo.variables.functions import UserMethodVariable

from . import replacements, thread_state

_OF_A_METHOD = {"__func__", "__self__"}
_ASKED = next(owner for owner in UserMethodVariable.__mro__ if "call_obj_hasattr" in vars(owner))


@replacements.replaces(_ASKED, "call_obj_hasattr")
def _has(ask: Callable[..., Any], self: Any, tx: Any, name: str) -> Any:
    """Whether a function has an attribute; a bound method has two more."""
    if name in _OF_A_METHOD and isinstance(self, UserMethodVariable) and thread_state.is_tracing_for_us():
        return ConstantVariable.create(True)
    return ask(self, tx, name)
