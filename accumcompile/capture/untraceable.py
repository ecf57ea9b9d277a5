"""What PyTorch cannot trace for a batch whose size varies, as an error with the user's line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch._dynamo.exc import TorchDynamoException
from torch._subclasses.fake_tensor import DataDependentOutputException

from .. import errors, where
from ..errors import AccumulateError

_FILE = re.compile(r"^\S+\.(cpp|h):\d+: ")  # of PyTorch's own sources


@contextmanager
def named(again: Callable[[], Any], over: Callable[[], bool]) -> Iterator[None]:
    """Around a trace: an error of PyTorch's before it is ``over`` becomes one of ours; ``again`` repeats the trace.

    Raises:
        AccumulateError: AC017.
    """
    try:
        yield
    except (AccumulateError, TorchDynamoException, DataDependentOutputException):
        raise  # ours has its line, Dynamo's own stop its trace or begin it anew, and for the last we have that done
    except Exception as error:
        if over():
            raise
        line = where.user_frame(str(error)) or _line_told(again)
        raise errors.error("AC017", line, reason=_FILE.sub("", str(error).strip().split("\n")[0])) from error


def _line_told(again: Callable[[], Any]) -> where.Frame | None:
    """The line of the forward whose backward fails: autograd warns of it, which is heard in a second trace."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with suppress(Exception):
            again()
    frames = (where.user_frame(str(warning.message)) for warning in told)
    return next((frame for frame in frames if frame is not None), None)
