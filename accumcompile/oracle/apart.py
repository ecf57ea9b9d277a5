"""Runs a call in a separate process, since invalid parts of an input may crash an operator."""

from __future__ import annotations

import faulthandler
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 300


def apart(fn: Callable, *args: Any, seconds: int = SECONDS) -> Any:
    """``fn(*args)``, computed in a fork of this process; None if that raises, crashes, or times out."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, fn, args, seconds))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _send(pipe: Connection, fn: Callable, args: tuple, seconds: int) -> None:
    faulthandler.disable()  # a crash is an expected outcome here
    signal.alarm(seconds)
    try:
        pipe.send(fn(*args))
    except Exception:  # parts of an input that are invalid for the operator
        pipe.send(None)
