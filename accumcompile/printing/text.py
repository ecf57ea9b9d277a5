"""Texts for people: rich renderables without colours, sizes in bytes, counts."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from rich.padding import Padding

WIDTH = 100  # columns of a report as a string
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def plain(renderable: RenderableType, width: int = WIDTH) -> str:
    """`renderable` as text: no colours, no trailing blanks."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, highlight=False)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def human(size: int) -> str:
    """Bytes in readable units: 512 B, 1.5 KiB, 12 MiB."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 4)
    value = size / 1024**power
    return f"{value:.1f} {UNITS[power]}" if value < 10 else f"{value:.0f} {UNITS[power]}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun: 1 value, 2 values."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def indented(renderable: RenderableType) -> RenderableType:
    """Indented by two spaces."""
    return Padding(renderable, (0, 0, 0, 2), expand=False)
