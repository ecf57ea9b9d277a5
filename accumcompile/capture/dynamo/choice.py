"""Choosing the batch among a call's candidates by what a captured graph does with them.

A candidate is tried by tracing the frame again with its size as a symbol. It takes the chosen one's place if that
became a constant, or if it shards more bytes of what the graph makes; the session remembers either. Each is tried
once. What ran before along another candidate is as right as ever: any dim may be split.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass
from typing import NoReturn

import sympy
import torch
from torch import fx

from ...printing.text import human
from ...session.session import Session
from ..batch.arguments import CallBatch
from ..batch.candidates import ONE_SAMPLE, Candidate, Candidates
from . import api as dynamo
from . import batch_data, retrace
from .thread_state import Call, Rows

BESIDE = 1 / 64  # rows of another number are split too if what is made of them takes this share of what the batch makes
ALONE = 64 << 10  # in a graph without the batch: if it takes so many bytes, too


@dataclass(frozen=True)
class Trial:
    """A trial that is under way: the frame that is traced again, and what was before it.

    bytes: what the batch until now shards.
    most_rows: the journal's.
    """

    frame: object
    batch: CallBatch
    bytes: int
    state: Candidates
    most_rows: int


def compare(gm: fx.GraphModule, symbols: Set[sympy.Symbol], call: Call, session: Session) -> None:
    """Compare the batch of ``call``, whose symbols these are, with other candidates among the graph's inputs.

    May have Dynamo trace the frame again along another one.
    """
    state, batch = session.part(Candidates), call.batch_of_call
    mine = state.sharded + sum(_sharded(gm, symbols))
    _end_trial(mine, call, session)
    for other in batch.open_others(state):
        tried = other.size == 1 or other.leader.key in state.lost
        if not tried and sum(_along(gm, other)) > mine:
            call.trial = Trial(retrace.frame(), batch, mine, state.copy(), session.journal.most_rows)
            _switch(other, call, session)
    _split_beside(gm, symbols, BESIDE * mine, call, session)
    state.sharded, state.captured = mine, True
    for leaf in batch.leaves:
        if leaf.dim is not None:
            state.constant.pop(leaf.key, None)


def split_alone(gm: fx.GraphModule, call: Call, session: Session) -> None:
    """Have Dynamo trace a frame without the batch again, with the size of other rows as a symbol."""
    _split_beside(gm, frozenset(), max(ALONE, BESIDE * session.part(Candidates).sharded), call, session)


def _split_beside(gm: fx.GraphModule, symbols: Set[sympy.Symbol], least: float, call: Call, session: Session) -> None:
    """Have Dynamo trace the frame again with further sizes as symbols.

    They are those of rows of which more than ``least`` bytes are made that do not carry the batch, whose ``symbols``
    these are.
    """
    state, batch = session.part(Candidates), call.batch_of_call
    rows = [c for c in batch.open_others(state) if c.size > 1 and not c.leader.dim]  # no packed row
    found = [c for c in rows if sum(_along(gm, c, symbols)) > least]
    if not found or batch.along is None or batch.candidate is None:
        return
    state.beside.update(leaf.key for c in found for leaf in c.leaves)
    call.batch_of_call = batch.along(batch.candidate)
    retrace.retrace_along(batch.split, call.batch_of_call.split, call.marks)


def _end_trial(mine: int, call: Call, session: Session) -> None:
    """Keep the better of two candidates, if there is a trial: that with ``mine`` bytes, or the one before it."""
    trial, state, now = call.trial, session.part(Candidates), call.batch_of_call.leader
    if trial is None or trial.frame != retrace.frame():
        return
    before = trial.batch.leader
    assert now is not None and before is not None
    if mine <= trial.bytes:
        _return_from(trial, call, session)
    call.trial = None
    state.lost.add(before.key)
    state.why = (
        f"it shards {human(mine)} of what the step makes, where {before.name}, of size {before.size} along dim "
        f"{before.dim}, shards {human(trial.bytes)}"
    )


def _return_from(trial: Trial, call: Call, session: Session) -> NoReturn:
    """Trace the frame again along the candidate before a trial, which was lost."""
    state, lost = session.part(Candidates), call.batch_of_call
    if lost.leader is not None:
        state.lost.add(lost.leader.key)
    call.trial, call.batch_of_call = None, trial.batch
    state.restore(trial.state)
    session.journal.most_rows = trial.most_rows
    retrace.retrace_along(lost.split, trial.batch.split, call.marks)


def rejected(gm: fx.GraphModule, call: Call, names: Collection[str], session: Session) -> Candidate | None:
    """The candidate to be tried next, as the inputs ``names`` of the batch became constants; None if none is left.

    Ends a trial, and traces the frame again along the candidate before it.
    """
    state, batch = session.part(Candidates), call.batch_of_call
    for leaf in batch.leaves:
        if leaf.dim is not None and leaf.name in names:
            state.constant[leaf.key] = max(leaf.size, state.constant.get(leaf.key, 0))
    if call.trial is not None:
        _return_from(call.trial, call, session)
    left = batch.open_others(state)
    left.sort(key=lambda c: not any(_along(gm, c)))  # those in this graph before those that may be in others
    if state.sharded and not any(sum(_along(gm, c)) > state.sharded for c in left[:1]):
        return None
    return left[0] if left else None


def run_one_sample(other: Candidate, call: Call, session: Session) -> None:
    """The graph runs as it is: no candidate is left but the size of 1."""
    assert call.batch_of_call.along is not None
    call.batch_of_call = call.batch_of_call.along(other)
    session.note(ONE_SAMPLE)


def switch(other: Candidate, call: Call, session: Session) -> NoReturn:
    """Trace the frame again along another candidate, as the size of the batch became a constant."""
    before = call.batch_of_call.leader
    _switch(other, call, session, f"that of {before.name} became a constant" if before is not None else "")


def _switch(other: Candidate, call: Call, session: Session, why: str = "") -> NoReturn:
    before = call.batch_of_call
    assert before.along is not None
    call.batch_of_call = before.along(other)
    session.part(Candidates).why = why
    session.journal.most_rows = 0
    retrace.retrace_along(before.split, call.batch_of_call.split, call.marks)


# Rows that were made outside of the graphs


def has_rows(call: Call) -> bool:
    """Whether the current frame is traced along rows of its own."""
    return call.rows is not None and call.rows.frame == retrace.frame()


def compare_rows(gm: fx.GraphModule, symbols: Set[sympy.Symbol], call: Call) -> None:
    """Compare the batch's symbols in a graph with rows that it receives from outside, such as unpadded samples.

    May have Dynamo trace the frame again along these rows; other graphs of the call are not concerned.
    """
    frame, mine = retrace.frame(), sum(_sharded(gm, symbols))
    if call.rows is not None and has_rows(call):
        if mine <= call.rows.bytes:
            drop_rows(call)
        return
    inputs = dynamo.inputs(gm)
    rows = batch_data.largest_rows(inputs, call)
    if not rows or frame in call.settled or not batch_data.trains(inputs):
        return
    if sum(_at_most(gm, {id(given.value) for given in rows}, rows[0].value.shape[0])) > mine:
        call.rows = Rows(frame, [given.value for given in rows], mine)
        retrace.retrace_along([], [(given.value, 0) for given in rows], call.marks)


def give_up(call: Call, session: Session) -> None:
    """Trace the frame again as before what is tried in it, if anything is: its sizes became constants."""
    if has_rows(call):
        drop_rows(call)
    if call.trial is not None and call.trial.frame == retrace.frame():
        _return_from(call.trial, call, session)


def drop_rows(call: Call) -> NoReturn:
    """Trace the frame again without the rows from outside, which are of no use."""
    assert call.rows is not None
    before, call.rows = call.rows, None
    call.settled.add(before.frame)
    retrace.retrace_along([(tensor, 0) for tensor in before.tensors], [], call.marks)


# Bytes


def _sharded(gm: fx.GraphModule, symbols: Set[sympy.Symbol]) -> Iterator[int]:
    """The bytes of each value that carries the batch."""
    for node in gm.graph.nodes:
        for value in dynamo.tensors_made(node):
            if any(_symbols(size) & symbols for size in value.shape):
                yield _bytes(value)


def _along(gm: fx.GraphModule, candidate: Candidate, apart: Set[sympy.Symbol] = frozenset()) -> Iterator[int]:
    return _at_most(gm, {id(leaf.tensor) for leaf in candidate.leaves}, candidate.size, apart)


def _at_most(gm: fx.GraphModule, tensors: Set[int], rows: int, apart: Set[sympy.Symbol] = frozenset()) -> Iterator[int]:
    """The bytes of each value that may carry a size: computed from the tensors that have it, and a multiple of it.

    Values with one of the symbols ``apart`` in their size do not count.
    """
    reached = {given.node for given in dynamo.inputs(gm) if id(given.value) in tensors}
    for node in gm.graph.nodes:
        if reached.isdisjoint(node.all_input_nodes):
            continue
        reached.add(node)
        for value in dynamo.tensors_made(node):
            is_apart = any(_symbols(size) & apart for size in value.shape)
            if not is_apart and any(size and size % rows == 0 for size in _known(value)):
                yield _bytes(value)


def _symbols(size: int | torch.SymInt) -> Set[sympy.Symbol]:
    return size.node.expr.free_symbols if isinstance(size, torch.SymInt) else set()


def _known(value: torch.Tensor) -> list[int]:
    """The sizes that are known, as they are now."""
    hints = (size.node.hint if isinstance(size, torch.SymInt) else size for size in value.shape)
    return [int(hint) for hint in hints if hint is not None]


def _bytes(value: torch.Tensor) -> int:
    """The bytes of a value, 0 if data decides its size."""
    known = _known(value)
    return math.prod(known) * value.element_size() if len(known) == value.dim() else 0
