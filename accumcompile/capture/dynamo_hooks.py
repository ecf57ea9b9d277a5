"""Hooks into Dynamo for the time of a call of ours: what it must leave alone, and what it must tell us.

Checked in torch 2.11, 2.13 and 2.15. The hooks are put back when the last call ends; in a thread without such
a call they change nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import CodeType
from typing import Any

import torch
from torch._dynamo import config, convert_frame, symbolic_convert
from torch._dynamo import utils as dynamo_utils
from torch._dynamo.exc import unimplemented
from torch._dynamo.types import ConvertFrameReturn, FrameAction, FrameExecStrategy
from torch._dynamo.variables.builder import VariableBuilder
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .. import where
from . import breaks, compiling, dynamo, floats, idle, lists, quiet
from .reasons import LIST, OPTIMIZER, Reason, is_expected

# The wrapper that every optimizer class puts around its step: one code object for all of them.
STEP_CODE = next(
    c for c in torch.optim.Optimizer.profile_hook_step.__code__.co_consts if getattr(c, "co_name", "") == "wrapper"
)
# What torch.func.vmap returns: a frame of its own only where no graph could hold it (chunks.py).
VMAP_CODE = next(c for c in torch.func.vmap.__code__.co_consts if getattr(c, "co_name", "") == "wrapped")
# Functions that Dynamo has dropped. It leaves them alone from then on, in whichever step they are called.
# (By place: code objects are not always hashable.)
_dropped: dict[tuple[str, int, str], Reason] = {}


def _place(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, where.named(code.co_name)


@dataclass(frozen=True)
class RecompileLimit:
    """A frame that Dynamo would now run uncompiled, because it compiled it too often."""

    config: str  # the setting's name
    reason: str  # why it was compiled again the last time
    code: Any
    variables: dict[str, Any]

    @property
    def times(self) -> int:
        """The value of the setting."""
        return getattr(config, self.config)


@dataclass(eq=False)
class Watch:
    """What is told during one call."""

    on_recompile_limit: Callable[[RecompileLimit], None]
    run_closure: Callable[[Callable[[], Any]], Any]  # captures what an optimizer's closure calls
    rows: int  # the batch size
    dropped: list[Reason] = field(default_factory=list)
    breaks_before: int = 0
    frames_before: int = 0
    graphs: int = 0  # that were worth capturing
    idle: bool = False  # whether a function ran as it is because its captures were not

    def reasons(self) -> list[Reason]:
        """Why running functions were dropped; then others of this call; then its breaks of graphs."""
        places = map(_place, where.running_code())
        running = [_dropped[place] for place in places if place in _dropped]
        since = dynamo_utils.graph_break_reasons[self.breaks_before :]
        breaks = [Reason(r.reason, where.of_summaries(r.user_stack)) for r in since]
        return running + self.dropped + [b for b in breaks if not is_expected(b)]

    @property
    def captured_anew(self) -> bool:
        """Whether Dynamo has looked at any frame during this call."""
        return frames_seen() != self.frames_before


def frames_seen() -> int:
    """How many frames Dynamo has been asked to compile so far."""
    return dynamo_utils.counters["frames"]["total"]


def tell_of_graph() -> None:
    """A graph has come that holds the batch, or that a backward may go through."""
    if _watching.now is not None:
        _watching.now.graphs += 1


class _Watching(threading.local):
    now: Watch | None = None


_watching = _Watching()


def _is_watching() -> bool:
    return _watching.now is not None


_lock = threading.Lock()
_calls = 0
_undo: list[Callable[[], None]] = []


@contextmanager
def watching(
    on_recompile_limit: Callable[[RecompileLimit], None], run_closure: Callable[[Callable[[], Any]], Any], rows: int
) -> Iterator[Watch]:
    """Keep optimizers from Dynamo, and be told what it drops, until the block ends."""
    outer = _watching.now
    before = len(dynamo_utils.graph_break_reasons), frames_seen()
    watch = Watch(on_recompile_limit, run_closure, rows, [], *before)
    _watching.now = watch
    _acquire()
    try:
        yield watch
    finally:
        _release()
        _watching.now = outer


def _acquire() -> None:
    global _calls
    with _lock:
        if _calls == 0:
            _replace(
                symbolic_convert.InliningInstructionTranslator,
                "check_inlineable",
                staticmethod(_check_inlineable),
            )
            _replace(VariableBuilder, "_wrap", _wrap)
            _replace(symbolic_convert.InstructionTranslatorBase, "_load_attr", _load_attr)
            _replace(symbolic_convert.InstructionTranslatorBase, "call_function", _call_function)
            _replace(convert_frame.CatchErrorsWrapper, "__call__", _convert)
            _replace(convert_frame, "exceeds_recompile_limit", _exceeds_recompile_limit)
            _replace(convert_frame, "format_error_msg", _format_error_msg)
            _undo.append(register_optimizer_step_pre_hook(_capture_closure).remove)
            _replace(convert_frame, "_compile", breaks.dropping(_original_compile, _is_watching))
            _undo.extend((breaks.install(_is_traced_by_us), compiling.install()))
            _undo.append(quiet.install(_is_watching))
        _calls += 1


def _release() -> None:
    global _calls
    with _lock:
        _calls -= 1
        while _calls == 0 and _undo:
            _undo.pop()()


def _replace(owner: Any, name: str, value: Any) -> None:
    before = vars(owner)[name]
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, before))


# The replacements. Each calls the original unless this thread is in a call of ours, and is capturing for us: an
# optimizer that the user compiled is captured by its own backend as if we were not there.

_original_check = symbolic_convert.InliningInstructionTranslator.check_inlineable
_original_wrap = VariableBuilder._wrap
_original_load_attr = symbolic_convert.InstructionTranslatorBase._load_attr
_original_call = symbolic_convert.InstructionTranslatorBase.call_function
_original_convert = convert_frame.CatchErrorsWrapper.__call__
_original_exceeds = convert_frame.exceeds_recompile_limit
_original_compile = convert_frame._compile
_original_format = convert_frame.format_error_msg


def _is_traced_by_us() -> bool:
    if _watching.now is None:
        return False
    return dynamo.is_ours(symbolic_convert.InstructionTranslator.current_tx().output.compiler_fn)


def _check_inlineable(func: Any) -> Any:
    """Break the graph at an optimizer's methods instead of tracing into them."""
    is_optimizers = isinstance(getattr(getattr(func, "obj", None), "value", None), torch.optim.Optimizer)
    if (is_optimizers or func.get_code() is STEP_CODE) and _is_traced_by_us():
        unimplemented(gb_type=OPTIMIZER, context=str(func), explanation=OPTIMIZER, hints=[])
    return _original_check(func)


def _wrap(self: Any, value: Any) -> Any:
    """An optimizer is an object like any other. (Dynamo would capture anew for each, and set its options.)"""
    if _is_traced_by_us():
        if known := lists.restored(self, value) or lists.of_method(self, value):
            return known
        lists.seen(self.tx, value)
        if isinstance(value, torch.optim.Optimizer):
            return self.wrap_user_defined(value)
    return _original_wrap(self, value)


def _load_attr(self: Any, name: str) -> None:
    if _is_traced_by_us():
        lists.loaded(self, _original_load_attr, name)
    else:
        _original_load_attr(self, name)


def _call_function(self: Any, fn: Any, args: list, kwargs: dict[str, Any]) -> None:
    """Break the graph where a list of one value a sample becomes a tensor."""
    watch = _watching.now
    if watch is not None and _is_traced_by_us() and lists.makes_tensor(self, fn, args, watch.rows):
        unimplemented(gb_type=LIST, context=args[0].source.name, explanation=LIST, hints=[])
    _original_call(self, fn, args, kwargs)


def _convert(self: Any, *args: Any) -> ConvertFrameReturn:
    """Let what an optimizer's step or a vmap calls run as it is, this once; forget what an earlier capture left."""
    if _watching.now is None or not dynamo.is_ours(self):
        return _original_convert(self, *args)
    if args[0].f_code is VMAP_CODE or _is_within_step(args[0].f_code):
        return ConvertFrameReturn(FrameExecStrategy(FrameAction.SKIP, FrameAction.SKIP), apply_to_code=False)
    watch, code = _watching.now, args[0].f_code
    if idle.is_idle(code):
        watch.idle = True
        return idle.as_it_is()
    with convert_frame.compile_lock:
        floats.forget_floats()
        graphs = watch.graphs
        result = _original_convert(self, *args)
        idle.count(code, result, worth=watch.graphs != graphs)
    return result


def _is_within_step(code: CodeType) -> bool:
    """Whether a frame is an optimizer's step, or is called by one, but for a closure that it was given."""
    caller: Any = sys._getframe(2)
    while code is not STEP_CODE and code is not dynamo.CLOSURE_CODE and caller is not None:
        code, caller = caller.f_code, caller.f_back
    return code is STEP_CODE


def _capture_closure(optimizer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Whatever an optimizer calls runs uncompiled, but for the closure that it is given."""
    watch = _watching.now
    if watch is None:
        return None

    def captured(value: Any) -> Any:
        return partial(watch.run_closure, value) if callable(value) else value

    return (args[0], *map(captured, args[1:])), {name: captured(value) for name, value in kwargs.items()}


def _exceeds_recompile_limit(cache_size: Any, compile_id: Any) -> tuple[bool, str]:
    """Tell of a frame that would now run uncompiled, before it does."""
    exceeded, limit = _original_exceeds(cache_size, compile_id)
    caller = sys._getframe(1).f_locals  # _compile's
    if exceeded and _watching.now is not None and dynamo.is_ours(caller.get("compiler_fn")):
        frame, reason = caller.get("frame"), caller.get("recompile_reason")
        variables = dict(getattr(frame, "f_locals", {}))
        _watching.now.on_recompile_limit(RecompileLimit(limit, reason or "", caller.get("code"), variables))
    return exceeded, limit


def last_capture() -> RecompileLimit | None:
    """The frame that Dynamo captures now, if it would run that uncompiled from the next change on."""
    caller: Any = sys._getframe()
    while caller is not None and caller.f_code is not _original_compile.__code__:
        caller = caller.f_back
    known = caller.f_locals if caller is not None else {}
    entries = getattr(known.get("cache_size"), "num_cache_entries_with_same_id_matched_objs", 0)
    if entries + 1 < config.recompile_limit or config.fail_on_recompile_limit_hit:
        return None
    return RecompileLimit("recompile_limit", known.get("recompile_reason") or "", known.get("code"), {})


def _format_error_msg(exc: Exception, code: Any, *args: Any, **kwargs: Any) -> str:
    """Dynamo formats an error when it drops a function because of it."""
    if _watching.now is not None:
        frame = where.of_summaries(getattr(exc, "real_stack", None)) or where.user_frame(str(exc.__cause__))
        reason = Reason(str(getattr(exc, "msg", exc)), frame, where.named(code.co_name))
        if frame is not None:
            _dropped[_place(code)] = reason
            _watching.now.dropped.append(reason)
    return _original_format(exc, code, *args, **kwargs)
