"""The backend that Dynamo calls with each graph of a step, whether decorated or compiled by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from ..capture import safety
from ..capture.aot import symbolic_kernels
from ..capture.batch import graph_outputs
from ..capture.dynamo import api as dynamo
from ..capture.dynamo import batch_data, breaks, graph_batch, recompile_limit, retrace
from ..capture.dynamo.call_history import Calls
from ..capture.dynamo.thread_state import here
from ..diagnostics import errors
from ..report.whole_graph import captured, values_of
from ..session.options import Options
from ..session.session import Session

symbolic_kernels.register()

# torch.compile passes the same dict for every graph of a step, and keeps it alive as long as the step.
_sessions: dict[int, tuple[Mapping[str, Any], Session]] = {}


def session_of(options: Mapping[str, Any] | None) -> Session:
    """The session that all graphs of one ``torch.compile(..., options=options)`` share."""
    given = options if options is not None else {}
    if id(given) not in _sessions or _sessions[id(given)][0] is not given:
        _sessions[id(given)] = given, Session(Options.of(given))
    return _sessions[id(given)][1]


def accumcompile(
    gm: fx.GraphModule, example_inputs: list[torch.Tensor], *, options: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """The backend that ``torch.compile(step, backend="accumcompile", options={"steps": 8})`` finds by name."""
    return compile_captured(gm, example_inputs, session_of(options))


def backend_of(session: Session) -> Callable[..., Any]:
    """The same backend bound to a decorated step's session."""

    @dynamo.ours
    def accumcompile(gm: fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
        return compile_captured(gm, example_inputs, session)

    return accumcompile


def compile_captured(gm: fx.GraphModule, example_inputs: list[torch.Tensor], session: Session) -> Callable[..., Any]:
    """Split a graph that holds the batch; a graph without one (clipping, an optimizer) runs as it is."""
    with retrace.last_trace(), breaks.bugs_named():
        return _compile_captured(gm, example_inputs, session)


def _compile_captured(gm: fx.GraphModule, example_inputs: list[torch.Tensor], session: Session) -> Callable[..., Any]:
    if here.call is None:
        retrace.retrace_if_floats_are_left()
    batch = graph_batch.find_batch(gm, session)
    if here.call is not None and (batch is not None or dynamo.differentiable_outputs(gm)):
        here.call.watch.graphs += 1
    session.part(Calls).differentiate |= dynamo.differentiates(gm.graph)
    if batch is None:
        return _whole(gm, session)
    _check_plain(gm)
    if not batch.symbols:
        return _whole(gm, session, is_free=batch.said)
    if not dynamo.makes_tensors(gm):
        return _whole(gm, session, is_free=True)
    recompile_limit.warn_of_last_capture(session)
    from ..capture.aot.split import split_graph  # late: these import the compiler
    from ..passes.rewriting import copied
    from .compiler import Compiler
    from .no_harm import Pieces, unharmed

    plain, pieces = copied(gm).forward, Pieces()
    with retrace.numbers_of_tensors():
        run = split_graph(gm, example_inputs, batch, session, partial(Compiler, session, batch.symbols, pieces))
    if not graph_batch.is_still_symbolic(gm, session):
        return _whole(gm, session, is_free=True)
    run = safety.split(dynamo.taking_plain(run, gm))
    run = unharmed(gm, run, safety.without_batch(plain), pieces, session)
    return graph_outputs.remembering(run, gm, batch.symbols)


def _whole(gm: fx.GraphModule, session: Session, is_free: bool | None = None) -> Callable[..., Any]:
    """The graph as it is. It is free, and no word is said, unless it trains on data of the batch."""
    call = here.call
    computed = batch_data.computed_from_batch(gm, call) if call is not None else []
    run = safety.without_batch(gm.forward, is_free=is_free or (is_free is None and not computed))
    if not computed:
        return run
    values = values_of(computed, captured)

    def runs_whole(*args: Any) -> Any:
        session.journal.ran_whole(values)
        return run(*args)

    return runs_whole


def _check_plain(gm: fx.GraphModule) -> None:
    subclass = dynamo.subclass_in(gm)
    if subclass is not None:
        kind, line = subclass
        raise errors.error("AC038", line, kind=kind)
