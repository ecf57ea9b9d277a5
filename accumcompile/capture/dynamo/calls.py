"""What a step's calls so far have shown, for the safety net of the next."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Calls:
    """What is known of a step's calls so far.

    frames: how many Dynamo had looked at when the last of them returned, which was right; None: none has.
    dropped: whether Dynamo has dropped a function: from then on that runs as it is, and nothing tells of it.
    differentiate: whether graphs of theirs hold derivatives of their own, which no backward shows.
    """

    frames: int | None = None
    dropped: bool = False
    differentiate: bool = False
