"""A container of torch's own is captured as a user's class is, where nothing around it is captured.

Dynamo inlines ``nn.Sequential`` into a frame that it captures, but skips it as a frame of its own, as all of torch's
files. So of a step that it drops (a loss and its backward() in a loop) the forward of a user's class would be split,
and that of a model made of torch's classes alone would run whole. Checked in torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

from torch import nn
from torch._C._dynamo import eval_frame
from torch._dynamo import trace_rules
from torch._dynamo.types import FrameAction, FrameExecStrategy

from . import replacements
from .thread_state import here

_CONTAINERS = (nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
_CODES = {container.forward.__code__ for container in _CONTAINERS}


def is_container(code: object) -> bool:
    """Whether this is the forward of one of torch's containers."""
    return isinstance(code, CodeType) and code in _CODES


@replacements.replaces(trace_rules, "check")
def _is_skipped(check: Callable[..., bool], code: Any, *args: Any, **kwargs: Any) -> bool:
    return check(code, *args, **kwargs) and (here.call is None or not is_container(code))


@replacements.also
def _forget_that_they_are_skipped() -> Callable[[], None]:
    """Outside of our calls Dynamo may have met them, and then never asks again."""
    for code in _CODES:
        eval_frame.set_code_exec_strategy(code, FrameExecStrategy(FrameAction.DEFAULT, FrameAction.DEFAULT))
    return lambda: None
