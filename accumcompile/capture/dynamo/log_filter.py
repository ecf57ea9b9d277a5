"""Silences long PyTorch log messages about failures that we report ourselves where they matter."""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import replacements
from .thread_state import here

# Loggers, and how the dropped messages begin: a graph break at a number, an operator that fails in tracing.
TALKATIVE = ("torch._dynamo.variables.tensor", "torch._subclasses.fake_tensor")
SAID_BY_US = ("Graph break from `Tensor.item()`", "failed while attempting to run meta")


@replacements.also
def _leave_out() -> Callable[[], None]:
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(_is_worth_a_word)

    def undo() -> None:
        for name in TALKATIVE:
            logging.getLogger(name).removeFilter(_is_worth_a_word)

    return undo


def _is_worth_a_word(record: logging.LogRecord) -> bool:
    return not (here.call is not None and str(record.msg).lstrip().startswith(SAID_BY_US))
