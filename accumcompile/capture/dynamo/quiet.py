"""PyTorch's pages of advice and of internals, for what we tell ourselves where it matters."""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import replaced
from .ambient import here

# Loggers, and how what they say begins: a break at a number, an operator that fails while traced.
TALKATIVE = ("torch._dynamo.variables.tensor", "torch._subclasses.fake_tensor")
SAID_BY_US = ("Graph break from `Tensor.item()`", "failed while attempting to run meta")


@replaced.also
def _leave_out() -> Callable[[], None]:
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(_is_worth_a_word)

    def undo() -> None:
        for name in TALKATIVE:
            logging.getLogger(name).removeFilter(_is_worth_a_word)

    return undo


def _is_worth_a_word(record: logging.LogRecord) -> bool:
    return not (here.call is not None and str(record.msg).lstrip().startswith(SAID_BY_US))
