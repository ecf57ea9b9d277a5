"""Hooks into Dynamo for the time of a call of ours: what it must leave alone, and what it must tell us.

Checked in torch 2.11, 2.13 and 2.15. Each hook is put back when the call ends; in other threads none acts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._C._dynamo import eval_frame as c_eval_frame
from torch._dynamo import convert_frame, eval_frame, symbolic_convert
from torch._dynamo import types as dynamo_types
from torch._dynamo import utils as dynamo_utils
from torch._dynamo.exc import unimplemented
from torch.utils import _python_dispatch

from .. import where

# The wrapper that every optimizer class puts around its step: one code object for all of them.
STEP_CODE = next(
    c for c in torch.optim.Optimizer.profile_hook_step.__code__.co_consts if getattr(c, "co_name", "") == "wrapper"
)


class _Active(threading.local):
    depth = 0


_active = _Active()
_lock = threading.Lock()
_users = 0
_undo: list[Callable[[], None]] = []


def _replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a torch module or class until the hooks are taken away."""
    before = owner.__dict__[name]
    setattr(owner, name, value)
    _undo.append(lambda: setattr(owner, name, before))
