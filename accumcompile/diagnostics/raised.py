"""What an exception must be for Dynamo to let it through as it is. Checked on torch 2.11, 2.13 and 2.15."""

from __future__ import annotations

from typing import Any

try:
    from torch._dynamo.exc import ShortenTraceback as LetThrough

    NO_FRAME: dict[str, Any] = {"first_useful_frame": None}  # what it is made with
except ImportError:  # pragma: no cover
    LetThrough = RuntimeError  # type: ignore[assignment,misc]
    NO_FRAME = {}

__all__ = ["NO_FRAME", "LetThrough"]
