"""Code that PyTorch cannot trace with a symbolic batch size: a graph break at its line, or an error that names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import DataDependentOutputException

from ...diagnostics import errors, where
from ...diagnostics.errors import AccumulateError
from ..dynamo import retrace
from ..dynamo.break_reasons import first_sentence
from ..dynamo.thread_state import here


@contextmanager
def failures_named(again: Callable[[], Any], over: Callable[[], bool]) -> Iterator[None]:
    """Turn a failure of PyTorch before the trace is ``over`` into a graph break; ``again`` repeats the trace.

    Raises:
        AccumulateError: AC017 if no break helps.
    """
    try:
        yield
    except (AccumulateError, TorchDynamoException, DataDependentOutputException):
        raise  # ours names its line, Dynamo's own end or restart its trace, and on the last our caller restarts it
    except Exception as error:
        if over():
            raise
        line = where.user_frame(str(error)) or _line_told(again)
        reason = first_sentence(error)
        if line is not None and here.call is not None:
            retrace.retrace_with_break(line, reason)
        raise errors.error("AC017", line, reason=reason) from error


def _line_told(again: Callable[[], Any]) -> where.Frame | None:
    """The line of the forward whose backward fails, from autograd's warning about it in a second trace."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(Exception):
            again()
    frames = (where.user_frame(str(warning.message)) for warning in told)
    return next((frame for frame in frames if frame is not None), None)
