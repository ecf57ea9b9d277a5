"""The base class of exceptions that Dynamo lets through unchanged. Checked on torch 2.11, 2.13 and 2.15."""

from __future__ import annotations

from typing import Any

try:
    from torch._dynamo.exc import ShortenTraceback as LetThrough

    NO_FRAME: dict[str, Any] = {"first_useful_frame": None}  # arguments of its constructor
except ImportError:  # pragma: no cover  (a later torch may drop the private class: then Dynamo shows frames of its own)
    LetThrough = RuntimeError  # type: ignore[assignment,misc]
    NO_FRAME = {}

__all__ = ["NO_FRAME", "LetThrough"]
