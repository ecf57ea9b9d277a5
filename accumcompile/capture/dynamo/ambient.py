"""What is so in this thread while a decorated step is called: the one owner of such state.

What we hook into torch is there for every thread, and asks here whether its own is in a call of ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dynamo import symbolic_convert

from ...session.session import Session
from ..batch.arguments import Leaf
from . import api as dynamo
from .watch import Watch


@dataclass(eq=False)
class Call:
    """A call of a decorated step that is under way.

    session: the step's.
    batch: the batch size.
    leaves: the tensors among the arguments, by id.
    arguments: the step's, by name.
    run_closure: calls a closure that an optimizer was given, captured.
    watch: what Dynamo tells of the call.
    on_backward: called with what a backward starts from, and its ``create_graph``, before it runs. None within one: a
        backward inside a backward (checkpointing) is not looked at.
    is_nested: whether the call is part of one of another step, whose backwards are looked at.
    in_chunk: whether what runs now is one chunk of the batch.
    """

    session: Session
    batch: int
    leaves: Mapping[int, Leaf]
    arguments: Mapping[str, Any]
    run_closure: Callable[[Callable[[], Any]], Any]
    watch: Watch = field(default_factory=Watch)
    on_backward: Callable[[Sequence[torch.Tensor], bool], None] | None = None
    is_nested: bool = False
    in_chunk: bool = False


@dataclass
class Retrace:
    """A frame whose batch came in as a constant is traced again: with marks, then with every int symbolic."""

    frame: object
    undo: ExitStack
    tries: int = 0
    has_forgotten: bool = False
    reads_lists: bool = False


class _Here(threading.local):
    """call: the innermost that is under way.
    retrace: of the frame that Dynamo traces again, in a call of ours or not.
    compilations: how many of torch's are under way.
    """

    call: Call | None = None
    retrace: Retrace | None = None
    compilations: int = 0


here = _Here()


@contextmanager
def during(call: Call) -> Iterator[None]:
    """Until the block ends, ``call`` is the one that is under way here."""
    outer, here.call = here.call, call
    if outer is not None:
        call.is_nested, call.in_chunk = outer.on_backward is not None, outer.in_chunk
    try:
        yield
    finally:
        here.call, call.on_backward = outer, None  # or a circle would keep the arguments


def is_tracing_for_us() -> bool:
    """Whether this thread is in a call of ours, and what Dynamo traces is traced for us.

    An optimizer that the user compiled is captured by its own backend as if we were not there.
    """
    if here.call is None:
        return False
    return dynamo.is_ours(symbolic_convert.InstructionTranslator.current_tx().output.compiler_fn)
