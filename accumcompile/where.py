"""Finding the user's own line: the innermost frame that lies outside installed packages."""

from __future__ import annotations

import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import FrameSummary

import torch

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>[^\n]+)(?:\n(?P<code>[^\n]*))?')
_RESUMED = re.compile(r"torch_dynamo_resume_in_(?P<name>.+)_at_\d+")


@dataclass(frozen=True)
class Frame:
    """One line of a user's program."""

    file: str
    line: int
    function: str
    code: str

    @property
    def where(self) -> str:
        """``file:line``, with the file's name relative to the working directory where it lies below it."""
        return f"{shortened(self.file)}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where} in {self.function}\n    {self.code}" if self.code else f"{self.where} in {self.function}"


@cache
def _installed() -> tuple[str, ...]:
    """The folders whose files are not the user's."""
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["purelib"], paths["platlib"]]
    folders += [str(Path(torch.__file__).parent), str(Path(__file__).parent)]
    return tuple(os.path.normcase(os.path.realpath(f)) + os.sep for f in folders)


@cache
def is_users(file: str) -> bool:
    """Whether ``file`` is part of the user's program."""
    if not file or file.startswith("<"):
        return file.startswith("<ipython") or file == "<stdin>"
    path = os.path.normcase(os.path.realpath(file))
    return not path.startswith(_installed()) and "site-packages" not in Path(path).parts


def shortened(file: str) -> str:
    """The file's name as a person at a prompt would write it."""
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def _named(function: str) -> str:
    """The function's own name where Dynamo gave its resumed part another."""
    resumed = _RESUMED.match(function)
    return resumed["name"] if resumed else function


def parse(stack_trace: str) -> list[Frame]:
    """The frames of a formatted stack trace, outermost first."""
    found = _FRAME.finditer(stack_trace or "")
    return [Frame(m["file"], int(m["line"]), _named(m["function"].strip()), (m["code"] or "").strip()) for m in found]


def innermost(frames: Iterable[Frame]) -> Frame | None:
    """The last of ``frames`` that is the user's."""
    users = [frame for frame in frames if is_users(frame.file)]
    return users[-1] if users else None


def user_frame(stack_trace: str | None) -> Frame | None:
    """The innermost frame of a formatted stack trace (``node.meta["stack_trace"]``) that is the user's."""
    return innermost(parse(stack_trace or ""))


def of_summaries(stack: Iterable[FrameSummary] | None) -> Frame | None:
    """The innermost user's frame of a ``traceback.StackSummary``."""
    return innermost(Frame(s.filename, s.lineno or 0, _named(s.name), (s.line or "").strip()) for s in stack or ())


def of_function(fn: object) -> Frame | None:
    """Where a Python function begins."""
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    if code is None:
        return None
    return Frame(code.co_filename, code.co_firstlineno, getattr(fn, "__qualname__", code.co_name), "")


def _running() -> list[Frame]:
    """The Python frames that are running now, innermost first."""
    frames, frame = [], sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        frames.append(Frame(code.co_filename, frame.f_lineno, _named(code.co_qualname), line))
        frame = frame.f_back
    return frames


def here() -> Frame | None:
    """The user's line that is running now."""
    return innermost(reversed(_running()))


def depth_of_user() -> int:
    """The ``stacklevel`` with which a warning of the caller points at the user's line."""
    for depth, frame in enumerate(_running()):
        if is_users(frame.file):
            return depth
    return 2
