"""The cost of checking compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class CheckCost:
    """What a step has spent so far on comparing compiled code with its graphs."""

    graphs: int = 0
    seconds: float = 0.0
    bytes: int = 0  # the most that a graph held while it ran uncompiled
    skipped: int = 0  # graphs that were not checked, for lack of memory

    def said(self) -> Iterator[str]:
        """The notes that explain() adds about it."""
        if self.graphs:
            yield (
                f"compiled code of {self.graphs} graphs was compared with what it was made of, each when it first ran: "
                f"{self.seconds:.2f} s, and at most {self.bytes / 2**20:.1f} MiB more"
            )
        if self.skipped:
            yield f"{self.skipped} compiled graphs were not compared with what they were made of: no memory for it"
