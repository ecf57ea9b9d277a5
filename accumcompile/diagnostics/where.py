"""Finding the user's own line: the innermost frame that lies outside installed packages."""

from __future__ import annotations

import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import FrameSummary
from types import CodeType, FrameType

import torch

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>[^\n]+)(?:\n(?P<code>[^\n]*))?')
_COMMENT = re.compile(r"(?P<code>.*?)  # (?P<file>\S+):(?P<line>\d+) in (?P<function>\S+)")
_RESUMED = re.compile(r"torch_dynamo_resume_in_(?P<name>.+?)_at_\d+(?:_\d+)?$")


@dataclass(frozen=True)
class Frame:
    """One line of a user's program."""

    file: str
    line: int
    function: str
    code: str

    @property
    def where(self) -> str:
        """``file:line``, with the file relative to the working directory if it lies below it."""
        return f"{shortened(self.file)}:{self.line}"

    def __str__(self) -> str:
        code = f"\n    {self.code}" if self.code else ""
        return f"{self.where} in {self.function}{code}"


@cache
def _installed() -> tuple[str, ...]:
    """The folders whose files are not the user's."""
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["purelib"], paths["platlib"]]
    folders += [str(Path(torch.__file__).parent), str(Path(__file__).parents[1])]
    return tuple(os.path.normcase(os.path.realpath(f)) + os.sep for f in folders)


@cache
def is_users(file: str) -> bool:
    """Whether ``file`` is part of the user's program."""
    if not file or file.startswith("<"):
        return file.startswith("<ipython") or file == "<stdin>"
    path = os.path.normcase(os.path.realpath(file))
    return not path.startswith(_installed()) and "site-packages" not in Path(path).parts


@cache
def package_of(file: str) -> str:
    """The installed package that a file belongs to; "" for the user's files, torch's, Python's and ours."""
    parts = Path(file).parts
    if "site-packages" not in parts:
        return ""
    name = _below_packages(file).parts[0].removesuffix(".py")
    return "" if name in ("torch", "accumcompile") else name


def _below_packages(file: str) -> Path:
    parts = Path(file).parts
    last = len(parts) - 1 - parts[::-1].index("site-packages")
    return Path(*parts[last + 1 :])


def shortened(file: str) -> str:
    """The file's path, relative to the working directory or to the installed packages if it lies below them."""
    if package_of(file):
        return str(_below_packages(file))
    try:
        return str(Path(file).resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def named(function: str) -> str:
    """A function's name, without enclosing scopes and without the prefix of Dynamo's resume functions."""
    return _RESUMED.sub(r"\g<name>", function.rpartition("<locals>.")[2])


def is_resumed(code: CodeType) -> bool:
    """Whether a function is one of Dynamo's resume functions: the code after a graph break."""
    return _RESUMED.search(code.co_name) is not None


def parse(stack_trace: str) -> list[Frame]:
    """The frames of a formatted stack trace, outermost first."""
    return [
        Frame(m["file"], int(m["line"]), named(m["function"].strip()), (m["code"] or "").strip())
        for m in _FRAME.finditer(stack_trace or "")
    ]


def of_comment(text: str) -> Frame | None:
    """The frame in ShapeEnv's notation, ``code  # file:line in function``, which shortens the file's path."""
    match = _COMMENT.match(text)
    if match is None:
        return None
    files = (getattr(m, "__file__", None) or "" for m in list(sys.modules.values()))
    file = next((f for f in files if f.endswith(match["file"])), match["file"])
    return Frame(file, int(match["line"]), named(match["function"]), match["code"].strip())


def innermost(frames: Iterable[Frame]) -> Frame | None:
    """The last of ``frames`` that is in the user's code."""
    users = [frame for frame in frames if is_users(frame.file)]
    return users[-1] if users else None


def user_frame(stack_trace: str | None) -> Frame | None:
    """The innermost frame of a formatted stack trace (``node.meta["stack_trace"]``) that is the user's."""
    return innermost(parse(stack_trace or ""))


def of_summaries(stack: Iterable[FrameSummary] | None) -> Frame | None:
    """The innermost user frame of a ``traceback.StackSummary``."""
    return innermost(map(_of_summary, stack or ()))


def _of_summary(summary: FrameSummary) -> Frame:
    return Frame(summary.filename, summary.lineno or 0, named(summary.name), (summary.line or "").strip())


def library_frame(stack: Iterable[FrameSummary] | None) -> Frame | None:
    """The innermost frame of a ``traceback.StackSummary``, if it is an installed package's: torch's do not count."""
    frames = map(_of_summary, stack or ())
    inner = [f for f in frames if is_users(f.file) or package_of(f.file)][-1:]
    return next((frame for frame in inner if package_of(frame.file)), None)


def of_code(code: CodeType) -> Frame:
    """Where a Python function begins, from its code."""
    return Frame(code.co_filename, code.co_firstlineno, named(code.co_qualname), "")


def _frames() -> list[FrameType]:
    """The Python frames on the stack, innermost first, from the caller of the function that asks."""
    frames, frame = [], sys._getframe(1).f_back
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def running_code() -> Iterator[CodeType]:
    """The code of the functions that are running now, the user's and those of installed packages, innermost first."""
    codes = (frame.f_code for frame in _frames())
    return (code for code in codes if is_users(code.co_filename) or package_of(code.co_filename))


def users_line() -> Frame | None:
    """The user's line that is running now."""
    for frame in _frames():
        code = frame.f_code
        if is_users(code.co_filename):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return Frame(code.co_filename, frame.f_lineno, named(code.co_qualname), line)
    return None


def depth_of_user() -> int:
    """The ``stacklevel`` with which a warning of the caller points at the user's line."""
    files = [frame.f_code.co_filename for frame in _frames()]
    return next((depth for depth, file in enumerate(files, 1) if is_users(file)), 2)
