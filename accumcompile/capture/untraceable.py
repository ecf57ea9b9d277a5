"""What PyTorch cannot trace for a batch whose size varies: a break at the user's line, or an error that names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import Any

from torch import fx
from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import DataDependentOutputException

from .. import errors, where
from ..errors import AccumulateError
from . import frames, retrace
from .reasons import first_sentence


@contextmanager
def named(again: Callable[[], Any], over: Callable[[], bool]) -> Iterator[None]:
    """Around a trace: where PyTorch fails before it is ``over``, the graph breaks; ``again`` repeats the trace.

    Raises:
        AccumulateError: AC017 where no break helps; AC901 for what fails afterwards, in our own passes.
    """
    try:
        yield
    except (AccumulateError, TorchDynamoException, DataDependentOutputException):
        raise  # ours has its line, Dynamo's own stop its trace or begin it anew, and for the last we have that done
    except Exception as error:
        if over():
            what = f"{type(error).__name__}: {error}"
            raise errors.error("AC901", _line_at_hand(error), what="a pass failed", why=what) from error
        line = where.user_frame(str(error)) or _line_told(again)
        reason = first_sentence(error)
        if line is not None and frames.current_call() is not None:
            retrace.retrace_with_break(line, reason)
        raise errors.error("AC017", line, reason=reason) from error


def _line_at_hand(error: Exception) -> where.Frame | None:
    """The user's line that the node comes from which was worked on."""
    nodes = (frame.f_locals.get("node") for frame, _ in walk_tb(error.__traceback__))
    lines = [where.user_frame(node.meta.get("stack_trace")) for node in nodes if isinstance(node, fx.Node)]
    return next(filter(None, reversed(lines)), None)


def _line_told(again: Callable[[], Any]) -> where.Frame | None:
    """The line of the forward whose backward fails: autograd warns of it, which is heard in a second trace."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(Exception):
            again()
    frames = (where.user_frame(str(warning.message)) for warning in told)
    return next((frame for frame in frames if frame is not None), None)
