"""PyTorch's pages of advice and of internals, for what we tell ourselves where it matters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

# Loggers, and how what they say begins: a break at a number, an operator that fails while traced.
TALKATIVE = ("torch._dynamo.variables.tensor", "torch._subclasses.fake_tensor")
SAID_BY_US = ("Graph break from `Tensor.item()`", "failed while attempting to run meta")


def install(active: Callable[[], bool]) -> Callable[[], None]:
    """Leave these pages out while ``active()`` holds; returns what undoes that."""
    worth_a_word = _filter(active)
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(worth_a_word)

    def undo() -> None:
        for name in TALKATIVE:
            logging.getLogger(name).removeFilter(worth_a_word)

    return undo


@cache
def _filter(active: Callable[[], bool]) -> Callable[[logging.LogRecord], bool]:
    return lambda record: not (active() and str(record.msg).lstrip().startswith(SAID_BY_US))
