"""Torch functions that are replaced while any thread calls a decorated step.

    @replaces(VariableBuilder, "_wrap")
    def _wrap(original, self, value): ...

A replacement is given the function that it replaces, which may be another replacement; in a thread outside such a call
it only calls that.
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
    """Have the decorated function called in place of ``owner.name``, with the original as its first argument.

    untraced: whether Dynamo must not trace into the call where the user's code makes one.
    """

    def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
        also(lambda: put(owner, name, _instead(_as_held(owner, name), replacement, untraced)))
        return replacement

    return register


@functools.cache  # they are installed at every call
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
    """Register something else to install for our calls; ``install`` returns a function that undoes it."""
    _installs.append(install)


def put(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute; returns a function that restores it."""
    before = _as_held(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


@contextmanager
def held(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block, an attribute is ``value``."""
    undo = put(owner, name, value)
    try:
        yield
    finally:
        undo()


def _as_held(owner: Any, name: str) -> Any:
    """An attribute as stored: a class stores a static method as an object that ``getattr`` unwraps."""
    return vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)


@contextmanager
def in_place() -> Iterator[None]:
    """Install everything until this block, and those of other threads, have ended."""
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
