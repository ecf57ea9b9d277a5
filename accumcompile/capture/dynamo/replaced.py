"""Functions of torch's that are replaced for the time of our calls, in whichever thread these are.

    @replaces(VariableBuilder, "_wrap")
    def _wrap(original, self, value): ...

A replacement is given what it replaces, which may be another one; in a thread without a call of ours it does no more
than call that.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Undo = Callable[[], object]
Install = Callable[[], Undo]

_installs: list[Install] = []
_lock = threading.Lock()
_calls = 0
_undo = ExitStack()


def replaces(owner: Any, name: str, untraced: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have the decorated function called in place of ``owner.name``, with what that was ahead of its arguments.

    untraced: whether Dynamo is to leave the call alone, where it comes upon one in the user's code.
    """

    def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
        also(lambda: put(owner, name, _instead(_as_held(owner, name), replacement, untraced)))
        return replacement

    return register


@functools.cache  # they are put in their places at every call
def _instead(before: Any, replacement: Callable[..., Any], untraced: bool) -> Any:
    is_static = isinstance(before, staticmethod)
    original = before.__func__ if is_static else before

    @functools.wraps(original)
    def instead(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    if untraced:
        return torch._dynamo.disable(instead)
    return staticmethod(instead) if is_static else instead


def also(install: Install) -> None:
    """Something else to be there for the time of our calls: ``install`` returns what undoes it."""
    _installs.append(install)


def put(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute; returns what puts it back."""
    before = _as_held(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


@contextmanager
def held(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute is ``value`` until the block ends."""
    undo = put(owner, name, value)
    try:
        yield
    finally:
        undo()


def _as_held(owner: Any, name: str) -> Any:
    """An attribute as it is held: of a class, a static method is one object, and a function another."""
    return vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)


@contextmanager
def in_place() -> Iterator[None]:
    """All of it is there until the block ends, and other threads' blocks have ended."""
    global _calls
    with _lock:
        if _calls == 0:
            for install in _installs:
                _undo.callback(install())
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1
            if _calls == 0:
                _undo.close()
