"""Dynamo's limit of recompilations, behind which it runs a frame uncompiled. Checked in torch 2.11, 2.13 and 2.15."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch._dynamo import config, convert_frame

from . import dynamo, replaced, watch
from .watch import RecompileLimit

_COMPILE_CODE = convert_frame._compile.__code__


@replaced.replaces(convert_frame, "exceeds_recompile_limit")
def _exceeds_recompile_limit(exceeds: Callable[..., Any], cache_size: Any, compile_id: Any) -> tuple[bool, str]:
    """Tell of a frame that would now run uncompiled, before it does."""
    exceeded, limit = exceeds(cache_size, compile_id)
    now = watch.now()
    if not exceeded or now is None:
        return exceeded, limit
    known = _variables_of_compile()
    if dynamo.is_ours(known.get("compiler_fn")):
        variables = dict(getattr(known.get("frame"), "f_locals", {}))
        reason = known.get("recompile_reason") or ""
        now.on_recompile_limit(RecompileLimit(limit, reason, known.get("code"), variables))
    return exceeded, limit


def last_capture() -> RecompileLimit | None:
    """The frame that Dynamo captures now, if it would run that uncompiled from the next change on."""
    known = _variables_of_compile()
    entries = getattr(known.get("cache_size"), "num_cache_entries_with_same_id_matched_objs", 0)
    if entries + 1 < config.recompile_limit or config.fail_on_recompile_limit_hit:
        return None
    return RecompileLimit("recompile_limit", known.get("recompile_reason") or "", known.get("code"), {})


def _variables_of_compile() -> dict[str, Any]:
    """What Dynamo's function that compiles a frame knows, of the frame that is being compiled."""
    caller: Any = sys._getframe(1)
    while caller is not None and caller.f_code is not _COMPILE_CODE:
        caller = caller.f_back
    return caller.f_locals if caller is not None else {}
