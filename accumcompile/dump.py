"""What the compiler did, as files: each graph after every pass, the final program, the report.

    <dump>/<graph>/00_captured.txt, 01_<pass>.txt, ...   readable code
    <dump>/<graph>/program.py                            the final program; `python program.py` runs it
    <dump>/report.txt, report.json                       what explain() says

The same texts go to TORCH_TRACE, where tlparse shows them, and to the logger "accumcompile.dump" at debug
level (TORCH_LOGS="+accumcompile"). Without any of the three, a dump costs nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import sympy
import torch
from torch.fx import GraphModule

from accumcompile.loop import Split
from accumcompile.options import Settings
from accumcompile.program_text import program_source
from accumcompile.report import Report

log = logging.getLogger(__name__)


class Dumper:
    """Writes texts below `directory`, or only to the logs where that is None."""

    def __init__(self, directory: str | PathLike[str] | None = None) -> None:
        self.directory = Path(directory) if directory is not None else None
        self.written: dict[str, int] = {}  # graph name -> texts so far

    def write(self, graph: str, step: str, content: str | GraphModule) -> None:
        """The next numbered text of `graph`: what it was after `step`."""
        number = self.written.get(graph, 0)
        self.written[graph] = number + 1
        self.put(f"{safe(graph)}/{number:02}_{safe(step)}.txt", lambda: readable(content))

    def program(
        self, graph: str, gm: GraphModule, split: Split, sizes: Mapping[sympy.Symbol, int] | None = None
    ) -> None:
        """The final program, whose first input is `split`, as a Python file that runs."""
        self.put(f"{safe(graph)}/program.py", lambda: program_source(gm, split, sizes))

    def report(self, report: Report) -> None:
        """The report as text and as JSON."""
        self.put("report.txt", lambda: str(report) + "\n")
        self.put("report.json", lambda: report.to_json() + "\n")

    def wanted(self) -> bool:
        """Whether anybody reads the texts."""
        handlers = logging.getLogger("torch.__trace").handlers
        return self.directory is not None or log.isEnabledFor(logging.DEBUG) or bool(handlers)

    def put(self, name: str, text: Callable[[], str]) -> None:
        """Write one text wherever somebody wants it; `text` is called only then."""
        if self.directory is not None:
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s\n%s", name, text())
        trace(name, text)


def dumper_of(settings: Settings) -> Dumper:
    """The one dumper of a step."""
    if "dumper" not in settings.state:
        settings.state["dumper"] = Dumper(settings.options.dump)
    return settings.state["dumper"]


@contextmanager
def reported(settings: Settings) -> Iterator[None]:
    """Around one call of a step: dump a report of it if it compiled something."""
    dumper = dumper_of(settings)
    if not dumper.wanted():
        yield
        return
    before = dict(dumper.written)
    with settings.journal.recording() as runs:
        yield
    if dumper.written != before:
        dumper.report(Report.of_call(runs, settings))


def trace(name: str, text: Callable[[], str]) -> None:
    """Hand `text` to torch's structured trace; it is not called where TORCH_TRACE is off.

    `torch._logging.trace_structured`: the same signature in torch 2.11 to 2.15.
    """
    torch._logging.trace_structured(
        "artifact",
        metadata_fn=lambda: {"name": f"accumcompile/{name}", "encoding": "string"},
        payload_fn=text,
        expect_trace_id=False,
    )


def readable(content: str | GraphModule) -> str:
    """A graph, and the graphs in it, as code with shapes in comments."""
    if isinstance(content, str):
        return content if content.endswith("\n") else content + "\n"
    return content.print_readable(print_output=False, include_stride=True, include_device=False)


def safe(name: str) -> str:
    """`name` as a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "_"
