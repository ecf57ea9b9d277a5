"""What this thread's call of ours is told while Dynamo looks at its frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from torch._dynamo import config, symbolic_convert
from torch._dynamo import utils as dynamo_utils

from .. import where
from . import dynamo
from .reasons import Reason, is_expected

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
    breaks_before: int = field(default_factory=lambda: len(dynamo_utils.graph_break_reasons))
    frames_before: int = field(default_factory=lambda: frames_seen())
    graphs: int = 0  # that were worth capturing
    idle: bool = False  # whether a function ran as it is because its captures were not

    def drop(self, code: CodeType, reason: Reason) -> None:
        """Dynamo has dropped a function."""
        _dropped[_place(code)] = reason
        self.dropped.append(reason)

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


class _Watching(threading.local):
    now: Watch | None = None


_watching = _Watching()


@contextmanager
def told(watch: Watch) -> Iterator[None]:
    """``watch`` is what this thread tells, until the block ends."""
    outer, _watching.now = _watching.now, watch
    try:
        yield
    finally:
        _watching.now = outer


def now() -> Watch | None:
    """That of the innermost call of ours in this thread."""
    return _watching.now


def is_watching() -> bool:
    """Whether this thread is in a call of ours."""
    return _watching.now is not None


def is_tracing_for_us() -> bool:
    """Whether this thread is in a call of ours, and what Dynamo traces is traced for us.

    An optimizer that the user compiled is captured by its own backend as if we were not there.
    """
    if _watching.now is None:
        return False
    return dynamo.is_ours(symbolic_convert.InstructionTranslator.current_tx().output.compiler_fn)


def tell_of_graph() -> None:
    """A graph has come that holds the batch, or that a backward may go through."""
    if _watching.now is not None:
        _watching.now.graphs += 1


def frames_seen() -> int:
    """How many frames Dynamo has been asked to compile so far."""
    return dynamo_utils.counters["frames"]["total"]
