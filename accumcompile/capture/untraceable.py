"""What PyTorch cannot trace for a batch whose size varies, as an error with the user's line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import Any

from torch import fx
from torch._dynamo.exc import InternalTorchDynamoError, TorchDynamoException
from torch._subclasses.fake_tensor import DataDependentOutputException

from .. import errors, where
from ..errors import AccumulateError

_FILE = re.compile(r"^\S+\.(cpp|h):\d+: ")  # of PyTorch's own sources


@contextmanager
def named(again: Callable[[], Any], over: Callable[[], bool]) -> Iterator[None]:
    """Around a trace: an error of PyTorch's before it is ``over`` becomes one of ours; ``again`` repeats the trace.

    Raises:
        AccumulateError: AC017; AC901 for what fails afterwards, in our own passes.
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
        raise errors.error("AC017", line, reason=_reason(error)) from error


@contextmanager
def named_of_dynamo() -> Iterator[None]:
    """Around the call of a step: an error inside of Dynamo, on a line that it names, becomes one of ours.

    Raises:
        AccumulateError: AC017.
    """
    try:
        yield
    except InternalTorchDynamoError as error:
        line = where.user_frame(str(error))
        if line is None or not _raised_in_torch(error):
            raise
        raise errors.error("AC017", line, reason=_reason(error)) from error


def _line_at_hand(error: Exception) -> where.Frame | None:
    """The user's line that the node comes from which was worked on."""
    nodes = (frame.f_locals.get("node") for frame, _ in walk_tb(error.__traceback__))
    frames = [where.user_frame(node.meta.get("stack_trace")) for node in nodes if isinstance(node, fx.Node)]
    return next(filter(None, reversed(frames)), None)


def _reason(error: Exception) -> str:
    """The first sentence of an error of PyTorch's."""
    return _FILE.sub("", re.split(r"\n|(?<=[a-z)])\. ", str(error).strip())[0])


def _raised_in_torch(error: Exception) -> bool:
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("torch.")


def _line_told(again: Callable[[], Any]) -> where.Frame | None:
    """The line of the forward whose backward fails: autograd warns of it, which is heard in a second trace."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(Exception):
            again()
    frames = (where.user_frame(str(warning.message)) for warning in told)
    return next((frame for frame in frames if frame is not None), None)
