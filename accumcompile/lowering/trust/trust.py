"""Compilers below are not trusted: compiled code is compared with its graph when it first runs.

Code that is found wrong is never used again; its graph then runs uncompiled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from ...diagnostics import errors, where
from ...diagnostics.errors import AccumulateError
from ...printing.files import write_repro
from ...session.check_cost import CheckCost
from ...session.session import Session
from .available import available
from .check import Expected, WrongCodeError

log = logging.getLogger("accumcompile")


class Checkable(Protocol):
    """Compiled code of a graph; ``need`` is the peak bytes of the graph's values if it runs uncompiled."""

    checked: bool
    need: int


class Trust:
    """Whether the compiled code of one graph is used: until compilation fails or a check finds it wrong.

    ``graph`` is the graph that it is compiled from, ``name`` the graph's name in the program.
    """

    def __init__(self, graph: GraphModule, name: str, session: Session):
        self.graph, self.name, self.session = graph, name, session
        self.lost = False

    def is_due(self, form: Checkable) -> bool:
        """Whether a form of the code is to be checked now."""
        wanted = self.session.options.check
        return wanted == "always" or (wanted == "first" and not form.checked)

    def checked(
        self,
        form: Checkable,
        arguments: Sequence[Any],
        run: Callable[[], tuple[list, list[Tensor]]],
        meaning: Callable[[list], list] = list,
        need: int = 0,
    ) -> list:
        """The outputs of compiled code, once they are found to be right.

        Args:
            form: the code.
            arguments: the graph's.
            run: runs the code; returns its outputs, and every value that it returned or changed.
            meaning: maps the graph's outputs to those values.
            need: the extra bytes that those values take, if they are not the graph's outputs.

        Raises:
            WrongCodeError: a value differs from the graph's by more than rounding explains.
        """
        form.checked = True
        expected = self._expected(form.need + need, arguments, meaning)
        outputs, values = run()
        if expected is not None:
            with self._timed():
                expected.compare(values)
        return outputs

    def _expected(self, need: int, arguments: Sequence[Any], meaning: Callable[[list], list]) -> Expected | None:
        """The graph's results; None if there is not enough memory to compute them."""
        cost = self.session.part(CheckCost)
        try:
            if need <= available(device_of(arguments)):
                with self._timed():
                    expected = Expected(self.graph, arguments, meaning)
                cost.graphs += 1
                cost.bytes = max(cost.bytes, expected.bytes)
                return expected
        except (torch.OutOfMemoryError, MemoryError):
            pass
        cost.skipped += 1
        log.warning("%s: %s is not checked against its graph: no memory for it", self.session.name, self.name)
        return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.session.part(CheckCost).seconds += time.perf_counter() - begun

    @contextmanager
    def compiling(self, arguments: Sequence[Any]) -> Iterator[None]:
        """Around a compilation: raise ``NoCodeError`` if the compiler fails. Our own errors pass through."""
        try:
            yield
        except (AccumulateError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise NoCodeError(error, arguments) from error

    def lose(self, why: WrongCodeError | NoCodeError) -> None:
        """Warn that there is no code, or that it is wrong. From now on the graph runs uncompiled."""
        self.lost = True
        repro = write_repro(self.session.options, self.name, self.graph, why.arguments)
        if isinstance(why, NoCodeError):
            errors.warn("AC051", self.session, self._line(0), what=self.name, reason=str(why), repro=repro)
            return
        suspect, (outputs,) = why.suspect, self.graph.graph.output_node().args
        facts = {
            "what": f"{self.name}, its result {why.position} ({outputs[why.position]})",
            "differs": f"{suspect.relative(suspect.differs):.1e}",
            "explained": f"{suspect.relative(suspect.explained):.1e}",
        }
        errors.warn("AC050", self.session, self._line(why.position), repro=repro, **facts)

    def _line(self, position: int) -> where.Frame | None:
        """The user's line that a result of the graph, or one after it, comes from."""
        (outputs,) = self.graph.graph.output_node().args
        frames = (where.user_frame(node.meta.get("stack_trace")) for node in outputs[position:])
        return next((frame for frame in frames if frame is not None), None)


class NoCodeError(Exception):
    """The underlying compiler failed."""

    def __init__(self, error: Exception, arguments: Sequence[Any]):
        text = str(error).strip().partition("\n")[0]
        super().__init__(f"{type(error).__name__}: {text}" if text else type(error).__name__)
        self.arguments = arguments


UNUSABLE = WrongCodeError, NoCodeError


def device_of(values: Sequence[Any]) -> torch.device:
    """The device on which a graph runs: an accelerator if one of its tensors is on one."""
    devices = [v.device for v in values if isinstance(v, Tensor)]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
