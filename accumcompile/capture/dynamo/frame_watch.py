"""What Dynamo reports while it looks at the frames of a decorated step's call."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import CodeType

from torch._dynamo import utils as dynamo_utils

from ...diagnostics import where
from .break_reasons import Reason, is_expected

# Functions that Dynamo has dropped. It skips them from then on, in whichever step they are called.
# (Keyed by location: code objects are not always hashable.)
_dropped: dict[tuple[str, int, str], Reason] = {}


def _place(code: CodeType) -> tuple[str, int, str]:
    return code.co_filename, code.co_firstlineno, where.named(code.co_name)


@dataclass(eq=False)
class Watch:
    """What Dynamo reports during one call."""

    dropped: list[Reason] = field(default_factory=list)
    breaks_before: int = field(default_factory=lambda: len(dynamo_utils.graph_break_reasons))
    frames_before: int = field(default_factory=lambda: frames_seen())
    graphs: int = 0  # how many graphs were worth capturing
    idle: bool = False  # whether a function ran uncaptured, as idle

    def drop(self, code: CodeType, reason: Reason) -> None:
        """Record that Dynamo has dropped a function."""
        _dropped[_place(code)] = reason
        self.dropped.append(reason)

    def reasons(self) -> list[Reason]:
        """Why functions now running were dropped; then others of this call; then its unexpected graph breaks."""
        places = map(_place, where.running_code())
        running = [_dropped[place] for place in places if place in _dropped]
        since = dynamo_utils.graph_break_reasons[self.breaks_before :]
        breaks = [Reason.of(r.reason, r.user_stack) for r in since]
        return running + self.dropped + [b for b in breaks if not is_expected(b)]

    @property
    def captured_anew(self) -> bool:
        """Whether Dynamo has looked at any frame during this call."""
        return frames_seen() != self.frames_before


def frames_seen() -> int:
    """How many frames Dynamo has been asked to compile so far."""
    return dynamo_utils.counters["frames"]["total"]
