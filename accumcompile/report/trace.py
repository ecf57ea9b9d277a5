"""PyTorch's structured trace (TORCH_TRACE), which tlparse shows. Checked on torch 2.11, 2.13 and 2.15."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch


def is_on() -> bool:
    """Whether the trace is on."""
    return bool(logging.getLogger("torch.__trace").handlers)


def write(name: str, text: Callable[[], str]) -> None:
    """Write ``text`` to the trace; it is not called if the trace is off."""
    torch._logging.trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": f"accumcompile/{name}", "encoding": "string"},
        payload_fn=text,
        expect_trace_id=False,
    )
