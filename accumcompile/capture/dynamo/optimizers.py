"""Optimizers are opaque to Dynamo: they run once per step, uncompiled, except for the closure that they are given.

Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

from torch._dynamo.exc import unimplemented
from torch._dynamo.symbolic_convert import InliningInstructionTranslator
from torch._dynamo.variables.builder import VariableBuilder
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from . import api as dynamo
from . import replacements, thread_state
from .break_reasons import OPTIMIZER
from .thread_state import here

# The wrapper that every optimizer class puts around its step: one code object for all of them.
STEP_CODE = next(c for c in Optimizer.profile_hook_step.__code__.co_consts if getattr(c, "co_name", "") == "wrapper")


def call_compiled(step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a decorated step's compiled function. This frame stands on the stack where the call begins."""
    return step(*args, **kwargs)


# Below these, an optimizer's step further up the stack says nothing: the optimizer was given what runs.
_GIVEN = (dynamo.CLOSURE_CODE, call_compiled.__code__)


def is_within_step(code: CodeType) -> bool:
    """Whether a frame is an optimizer's step or is called by one, except through a closure that it was given.

    A decorated step may be such a closure itself: Lightning's training step is called by ``optimizer.step(closure)``.
    """
    caller: Any = sys._getframe(1)
    while code is not STEP_CODE and code not in _GIVEN and caller is not None:
        code, caller = caller.f_code, caller.f_back
    return code is STEP_CODE


@replacements.replaces(InliningInstructionTranslator, "check_inlineable")
def _check_inlineable(check: Callable[[Any], Any], func: Any) -> Any:
    """Break the graph at an optimizer's methods instead of tracing into them."""
    is_method = isinstance(getattr(getattr(func, "obj", None), "value", None), Optimizer)
    if (is_method or func.get_code() is STEP_CODE) and thread_state.is_tracing_for_us():
        unimplemented(gb_type=OPTIMIZER, context=str(func), explanation=OPTIMIZER, hints=[])
    return check(func)


@replacements.replaces(VariableBuilder, "_wrap")
def _wrap(wrap: Callable[[Any, Any], Any], self: Any, value: Any) -> Any:
    """Treat an optimizer as an ordinary object. (Dynamo would capture anew for each, and set its options.)"""
    if isinstance(value, Optimizer) and thread_state.is_tracing_for_us():
        return self.wrap_user_defined(value)
    return wrap(self, value)


def _capture_closure(optimizer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    call = here.call
    if call is None:
        return None

    def captured(value: Any) -> Any:
        return partial(call.run_closure, value) if callable(value) else value

    return (args[0], *map(captured, args[1:])), {name: captured(value) for name, value in kwargs.items()}


replacements.also(lambda: register_optimizer_step_pre_hook(_capture_closure).remove)
