"""What it costs that compiled code is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class CheckCost:
    """What it has cost a step so far that compiled code is compared with what it was made of."""

    graphs: int = 0
    seconds: float = 0.0
    bytes: int = 0  # the most that a graph held while it ran as it stands
    skipped: int = 0  # graphs for whose check there was no memory

    def said(self) -> Iterator[str]:
        """What explain() says of it."""
        if self.graphs:
            yield (
                f"compiled code of {self.graphs} graphs was compared with what it was made of, each when it first ran: "
                f"{self.seconds:.2f} s, and at most {self.bytes / 2**20:.1f} MiB more"
            )
        if self.skipped:
            yield f"{self.skipped} compiled graphs were not compared with what they were made of: no memory for it"
