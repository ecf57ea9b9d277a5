"""Dynamo's recompile limit, beyond which it runs a frame uncompiled. Checked in torch 2.11, 2.13 and 2.15."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch._dynamo import config, convert_frame

from ...diagnostics import errors, where
from ...session.session import Session
from ..batch import arguments as batches
from ..batch import graph_outputs
from . import api as dynamo
from . import nn_containers, replacements
from .break_reasons import recompilation
from .call_history import Calls
from .thread_state import Call, here

_COMPILE_CODE = convert_frame._compile.__code__


@dataclass(frozen=True)
class RecompileLimit:
    """A frame that Dynamo has compiled too often, and would run uncompiled."""

    config: str  # the setting's name
    reason: str  # why it was compiled again the last time
    code: Any

    @property
    def times(self) -> int:
        """The value of the setting."""
        return getattr(config, self.config)


@replacements.replaces(convert_frame, "exceeds_recompile_limit")
def _exceeds_recompile_limit(exceeds: Callable[..., Any], cache_size: Any, compile_id: Any) -> tuple[bool, str]:
    """Report a frame that would now run uncompiled, if it holds the batch."""
    exceeded, limit = exceeds(cache_size, compile_id)
    call = here.call
    local = _variables_of_compile() if exceeded and call is not None else {}
    if not local or call is None or nn_containers.is_container(local.get("code")):
        return exceeded, limit
    variables = dict(getattr(local.get("frame"), "f_locals", {}))
    if dynamo.is_ours(local.get("compiler_fn")) and any(_carries_batch(v, call) for v in variables.values()):
        _refuse(RecompileLimit(limit, local.get("recompile_reason") or "", local.get("code")), call)
    return exceeded, limit


def _carries_batch(value: Any, call: Call) -> bool:
    """Whether a variable of a frame holds a tensor that carries the batch."""
    for _, tensor, _ in batches.tensors("", value):
        leaf = call.leaves.get(id(tensor))
        if (leaf is not None and leaf.dim is not None) or graph_outputs.dim_of(tensor) is not None:
            return True
    return False


def _refuse(hit: RecompileLimit, call: Call) -> None:
    """Raise if Dynamo would now run a frame that holds the batch uncompiled; only warn for a resume function.

    The safety net then checks each backward from that call on.
    """
    facts = {"limit": hit.times, "config": hit.config, "reason": recompilation(hit.reason)}
    if not where.is_resumed(hit.code):
        raise errors.error("AC023", where.of_code(hit.code), **facts)
    call.session.part(Calls).dropped = True
    errors.warn("AC037", call.session, where.of_code(hit.code), **facts)


def last_capture() -> RecompileLimit | None:
    """The frame that Dynamo is capturing, if it would run it uncompiled instead of capturing it again."""
    local = _variables_of_compile()
    entries = getattr(local.get("cache_size"), "num_cache_entries_with_same_id_matched_objs", 0)
    if entries + 1 < config.recompile_limit or config.fail_on_recompile_limit_hit:
        return None
    return RecompileLimit("recompile_limit", local.get("recompile_reason") or "", local.get("code"))


def warn_of_last_capture(session: Session) -> None:
    """Warn one capture before Dynamo's limit: outside a decorated call, hitting it goes unreported."""
    hit = last_capture() if here.call is None else None
    if hit is not None:
        facts = {"step": where.named(hit.code.co_name), "limit": hit.times, "config": hit.config}
        errors.warn("AC034", session, where.of_code(hit.code), reason=recompilation(hit.reason), **facts)


def _variables_of_compile() -> dict[str, Any]:
    """The local variables of Dynamo's ``_compile`` for the frame that is being compiled."""
    caller: Any = sys._getframe(1)
    while caller is not None and caller.f_code is not _COMPILE_CODE:
        caller = caller.f_back
    return caller.f_locals if caller is not None else {}
