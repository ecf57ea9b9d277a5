"""Progress display during compilation: what compiles, how far, and for how long.

A transient line on a terminal or in a notebook; otherwise messages of the logger "accumcompile"; nothing if
``ACCUMCOMPILE_PROGRESS=0`` is set. ``TORCH_LOGS="+accumcompile"`` shows the logger's messages.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

log = logging.getLogger("accumcompile")


class Progress:
    """Counts what one program compiles. ``expected`` grows with every new kind of batch."""

    def __init__(self, name: str):
        self.name = name
        self.done = 0
        self.expected = 0
        self.seconds = 0.0

    def expect(self, count: int) -> None:
        """``count`` more graphs are about to be compiled."""
        self.expected = self.done + count

    @contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Show that ``what`` compiles while the block runs."""
        text = f"{self.name}: compiling {what} ({self.done + 1} of {max(self.expected, self.done + 1)})"
        begun = time.perf_counter()
        with shown(text):
            yield
        taken = time.perf_counter() - begun
        self.done += 1
        self.seconds += taken
        if enabled():
            log.info("%s: compiled %s in %.1f s, %.1f s in all", self.name, what, taken, self.seconds)


def enabled() -> bool:
    """Whether progress is to be shown at all."""
    return os.environ.get("ACCUMCOMPILE_PROGRESS", "1") != "0"


@contextmanager
def shown(text: str) -> Iterator[None]:
    """Show ``text`` while the block runs."""
    if not enabled():
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None  # without them a line cannot be removed
    if console.is_terminal or widgets:
        with status_line(text, console):
            yield
        return
    if console.is_jupyter:
        console.print(text, markup=False, highlight=False)
    else:
        log.info(text)
    yield


def status_line(text: str, console: Any) -> Any:
    """A line with a spinner and the elapsed time, on a ``rich.console.Console``."""
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    bar = Bar(*columns, console=console, transient=True)
    bar.add_task(text, total=None)
    return bar
