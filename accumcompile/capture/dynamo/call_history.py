"""What a step's calls so far have shown, for the safety net of the next call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Calls:
    """What is known of a step's calls so far.

    frames: how many frames Dynamo had looked at when the last clean call returned; None if there was none.
    dropped: whether Dynamo has dropped a function: from then on it runs uncompiled, without any report.
    differentiate: whether their graphs compute derivatives themselves, which no backward shows.
    """

    frames: int | None = None
    dropped: bool = False
    differentiate: bool = False
