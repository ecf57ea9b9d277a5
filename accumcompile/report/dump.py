"""What the compiler did, as files: each graph after every pass, the final program, the report.

    <dump>/<graph>/00_captured.txt, 01_<pass>.txt, ...   readable code; a backward begins after the partition
    <dump>/<graph>/program.py                            the final program; `python program.py` runs it
    <dump>/<graph>/report.txt, report.json               what explain() says about this graph
    <dump>/report.txt, report.json                       what explain() says about the call that compiled

The same texts go to TORCH_TRACE, where tlparse shows them, and to the logger "accumcompile.dump" at debug
level (TORCH_LOGS="+accumcompile"). Without any of the three, a dump costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.fx import GraphModule

from accumcompile.printing.annotated import annotated, heads
from accumcompile.printing.files import folder_of, safe
from accumcompile.printing.source import program_source
from accumcompile.propagation.placed import Propagation
from accumcompile.report import trace
from accumcompile.report.report import Report, report_of
from accumcompile.session.journal import Run
from accumcompile.session.session import Session

log = logging.getLogger("accumcompile.dump")


class Dumper:
    """Writes texts below `directory`, or only to the logs if that is None."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.graphs = 0  # so far

    def graph(self, road: str) -> GraphDump:
        """The texts of the next graph."""
        self.graphs += 1
        return GraphDump(self, f"graph_{self.graphs}_{safe(road)}")

    def history(self) -> History:
        """For the passes that run before a graph has a name."""
        return History(self.wanted())

    def report(self, report: Report, graph: str = "") -> None:
        """The report as text and as JSON."""
        folder = f"{graph}/" if graph else ""
        self.put(f"{folder}report.txt", lambda: str(report) + "\n")
        self.put(f"{folder}report.json", lambda: report.to_json() + "\n")

    def wanted(self) -> bool:
        """Whether the texts are written anywhere."""
        return self.directory is not None or log.isEnabledFor(logging.DEBUG) or trace.is_on()

    def put(self, name: str, text: Callable[[], str]) -> None:
        """Write one text to every destination that is enabled; `text` is called only then."""
        if self.directory is not None:
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s\n%s", name, text())
        trace.write(name, text)


class History:
    """The results of passes on a graph before it was partitioned; the dump of the first piece gets them."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.steps: list[tuple[str, GraphModule, float]] = []

    def observe(self, step: str, gm: GraphModule, seconds: float) -> None:
        """Record the result of a pass, if dumps are written anywhere."""
        if self.wanted:
            self.steps.append((step, gm, seconds))

    def into(self, dump: GraphDump) -> None:
        """Write the recorded results to `dump`, and clear them."""
        for step in self.steps:
            dump.observe(*step)
        self.steps.clear()


class GraphDump:
    """The texts of one graph, numbered."""

    def __init__(self, dumper: Dumper, name: str) -> None:
        self.dumper, self.name, self.written = dumper, name, 0

    def observe(self, step: str, gm: GraphModule, seconds: float) -> None:
        """Write the graph after a pass, and log how long the pass took."""
        log.info("%s: %s took %.3f s", self.name, step, seconds)
        self.write(step, gm)

    def write(self, step: str, content: str | GraphModule | Callable[[], str]) -> None:
        """Write the next text: the graph after `step`."""
        name = f"{self.name}/{self.written:02}_{safe(step)}.txt"
        self.written += 1
        self.dumper.put(name, lambda: readable(content))

    def placed(self, gm: GraphModule, propagation: Propagation) -> None:
        """The graph with the placement and stage of every value."""
        self.write("propagate", lambda: annotated(gm, place=lambda node: propagation[node].place).src.strip() + "\n")

    def program(self, gm: GraphModule, run: Run, session: Session) -> None:
        """The program, whose first input is a `Split`, as a Python file, and a report of its first `run`."""
        self.dumper.put(f"{self.name}/program.py", lambda: program_source(gm, run.split, run.sizes))
        if self.dumper.wanted():
            self.dumper.report(report_of(session, [run]), self.name)


class Dumpers(dict[Path | None, Dumper]):
    """A step's dumpers by folder; each keeps numbering its graphs."""


def dumper_of(session: Session) -> Dumper:
    """The dumper for the folder that ``dump=`` names now."""
    folder = folder_of(session.options)
    return session.part(Dumpers).setdefault(folder, Dumper(folder))


@contextmanager
def reported(session: Session) -> Iterator[None]:
    """Around one call of a step: dump a report of it if it compiled something."""
    dumper = dumper_of(session)
    if not dumper.wanted():
        yield
        return
    before = dumper.graphs
    with session.journal.recording() as runs:
        yield
    if dumper.graphs != before:
        dumper.report(report_of(session, runs))


def readable(content: str | GraphModule | Callable[[], str]) -> str:
    """A graph, and the graphs in it, as code with shapes in comments."""
    if not isinstance(content, (str, GraphModule)):
        return content()
    if isinstance(content, str):
        return content if content.endswith("\n") else content + "\n"
    about = heads(content)
    texts = [annotated(content).src.strip()]
    texts += [f"{name}:\n{annotated(body, about.get(name, ())).src.strip()}" for name, body in _graphs_in(content)]
    return "\n\n\n".join(texts) + "\n"


def _graphs_in(gm: GraphModule) -> Iterator[tuple[str, GraphModule]]:
    return ((name, child) for name, child in gm.named_children() if isinstance(child, GraphModule))
