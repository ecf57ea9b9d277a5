"""The state of a thread while it calls a decorated step, all in one place.

Our hooks in torch are installed for every thread, and ask here whether their thread is in such a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._dynamo import symbolic_convert

from ...diagnostics import where
from ...session.session import Session
from ..batch.arguments import CallBatch, Leaf
from . import api as dynamo
from .frame_watch import Watch


@dataclass(frozen=True)
class Refusal:
    """An input that cannot be the batch: its bytes, the line that made a constant of its size, and what is said."""

    bytes: int
    line: where.Frame | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """Rows from outside of the graphs, along which one frame is traced; ``bytes`` is what the batch shards of it."""

    frame: object
    tensors: Sequence[torch.Tensor]
    bytes: int


@dataclass(eq=False)
class Call:
    """A call of a decorated step that is in progress.

    session: the step's.
    batch_of_call: the batch; a graph may choose another one (``choice.py``).
    arguments: the step's, by name.
    run_closure: captures and calls a closure that an optimizer was given.
    watch: what Dynamo reports during the call.
    on_backward: called with a backward's roots, its ``create_graph`` and its ``accumulate_grad`` before it runs. None
        during a backward: one inside another (checkpointing) is not checked.
    is_nested: whether the call is part of another step's call, which checks backwards.
    in_chunk: whether a vmap over the batch now runs in chunks.
    marks: undoes at the end of the call what a graph has marked.
    refusals: inputs that were found to be no batch.
    rows: the frame that is traced along rows of its own.
    settled: the frames for which that was tried in vain.
    trial: the trial of another candidate for the batch, while it is under way.
    """

    session: Session
    batch_of_call: CallBatch
    arguments: Mapping[str, Any]
    run_closure: Callable[[Callable[[], Any]], Any]
    watch: Watch = field(default_factory=Watch)
    on_backward: Callable[[Sequence[torch.Tensor], bool, bool], None] | None = None
    is_nested: bool = False
    in_chunk: bool = False
    marks: ExitStack = field(default_factory=ExitStack)
    refusals: list[Refusal] = field(default_factory=list)
    trial: Any = None
    rows: Rows | None = None
    settled: set[object] = field(default_factory=set)

    @property
    def batch(self) -> int:
        """The batch size."""
        return self.batch_of_call.size

    @property
    def leaves(self) -> Mapping[int, Leaf]:
        """The tensors among the arguments, by id."""
        return self.batch_of_call.by_id


@dataclass
class Retrace:
    """How a frame is being traced again: for a constant batch, first with marks, then with every int symbolic."""

    frame: object
    undo: ExitStack
    tries: int = 0
    has_forgotten: bool = False
    reads_lists: bool = False


class _Here(threading.local):
    """call: the innermost call in progress.
    retrace: that of the frame that Dynamo is tracing again, in such a call or not.
    compilations: how many torch compilations are in progress.
    """

    call: Call | None = None
    retrace: Retrace | None = None
    compilations: int = 0


here = _Here()


@contextmanager
def during(call: Call) -> Iterator[None]:
    """Within the block, ``call`` is this thread's call."""
    outer, here.call = here.call, call
    if outer is not None:
        call.is_nested, call.in_chunk = outer.on_backward is not None, outer.in_chunk
    try:
        yield
    finally:
        here.call, call.on_backward = outer, None  # or a reference cycle would keep the arguments alive


def is_tracing_for_us() -> bool:
    """Whether this thread is in a decorated step's call, and Dynamo is tracing for our backend.

    An optimizer that the user compiled is captured for its own backend, and our hooks do nothing.
    """
    if here.call is None:
        return False
    return dynamo.is_ours(symbolic_convert.InstructionTranslator.current_tx().output.compiler_fn)
