"""Finding the batch in a graph from Dynamo, and making its size one symbol.

Which symbolic dim is split is a question of performance, not of correctness: the algebra of placements holds for
any. So a guess is allowed where nothing was declared, and is an error only if nothing could be split at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from ...diagnostics import errors, where
from ...session.session import Session
from ..batch import arguments as batches
from ..batch import graph_outputs
from ..batch.arguments import Candidates, Leaf
from . import api as dynamo
from . import batch_data, choice, retrace
from .api import Input
from .thread_state import Call, Refusal, here


@dataclass(frozen=True)
class BatchSymbols:
    """The batch of one graph. Its symbols are equal, as long as Dynamo's guards hold.

    No symbols: the graph holds the batch, but only as a constant, and runs whole. ``said``: that needs no word more.
    """

    symbols: frozenset[sympy.Symbol] = frozenset()
    declared: bool = False
    said: bool = False


# How sure we are that an input is the batch: the user declared it; one of our graphs returned it; it is the argument
# whose size is the batch size; it is another argument of that size; it is some other tensor of that size; it is a
# batch of its own, of another size.
DECLARED, CARRIED, LEADING, INFERRED, GUESSED = "declared", "carried", "leading", "inferred", "guessed"
BESIDE = "beside"
PRIMARY = {DECLARED, CARRIED, LEADING}


@dataclass(frozen=True, eq=False)
class Carrier:
    """An input of the graph that carries the batch along ``dim``."""

    input: Input
    dim: int
    kind: str
    name: str

    @property
    def size(self) -> int | torch.SymInt:
        """The size in the graph."""
        return self.input.size(self.dim)

    @property
    def hint(self) -> int:
        """The size that the input really has."""
        return self.input.value.shape[self.dim]

    @property
    def facts(self) -> dict[str, Any]:
        """What messages say of it."""
        return {"name": self.name, "dim": self.dim, "size": self.hint}

    @property
    def symbolic(self) -> bool:
        """Whether the size may vary."""
        return isinstance(self.size, torch.SymInt) and not self.size.node.expr.is_number


def find_batch(gm: fx.GraphModule, session: Session) -> BatchSymbols | None:
    """The batch's symbols in a graph, or None for a graph that has no batch.

    May have Dynamo trace the frame again.
    """
    inputs = dynamo.inputs(gm)
    carriers = _carriers(inputs)
    symbolic = [c for c in carriers if c.symbolic]
    constant = [c for c in carriers if not c.symbolic]
    if constant and not symbolic and here.call is not None:
        choice.give_up(here.call, session)
    if constant and (not symbolic or any(c.kind in PRIMARY for c in constant)):
        retrace.retrace([(c.input.value, c.dim) for c in constant])
        if _is_small(constant, session):
            return BatchSymbols(said=True)
        _break_at_transforms(gm)
        if not symbolic and _is_one_sample(constant, gm, session):
            return BatchSymbols(said=True)
    for carrier in constant:
        _became_constant(carrier, gm, session, symbolic)
    if symbolic:
        batch = _unified(symbolic)
        if here.call is not None:
            _compare(gm, batch, here.call, session)
        return batch
    if not carriers and here.call is not None:
        choice.split_alone(gm, here.call, session)
        return _of_number(gm, here.call)
    return BatchSymbols() if any(c.kind != INFERRED for c in constant) else None


def _compare(gm: fx.GraphModule, batch: BatchSymbols, call: Call, session: Session) -> None:
    """Compare the batch with what else could be split. May have Dynamo trace the frame again."""
    choice.compare_rows(gm, batch.symbols, call)
    if not batch.declared and not choice.has_rows(call):
        choice.compare(gm, batch.symbols, call, session)


def _of_number(gm: fx.GraphModule, call: Call) -> BatchSymbols | None:
    """The batch of a graph that receives its size alone, as a number: what it makes of that size carries it."""
    symbols = batch_data.sizes_given(gm, call)
    if not symbols and batch_data.makes_batch(gm, call):
        retrace.retrace(())  # as a frame receives it as a plain int
    return BatchSymbols(frozenset(symbols)) if symbols else None


def _is_one_sample(constant: list[Carrier], gm: fx.GraphModule, session: Session) -> bool:
    """Whether the batch, whose size became a constant, is one sample after all.

    Has Dynamo trace the frame again along the next candidate for the batch, while one is left.
    """
    call, first = here.call, next((c for c in constant if c.kind == LEADING), None)
    if call is None or first is None or not _trains(gm):
        return False
    call.refusals.append(refusal := _refusal(first, gm))
    following = choice.rejected(gm, call, {c.name for c in constant}, session)
    if following is None:
        return False
    if following.size > 1:
        if refusal.bytes > following.bytes and following.size not in first.input.value.shape:
            errors.warn("AC016", session, refusal.line, **refusal.facts)
        session.note(_no_batch(refusal.line, **refusal.facts))
        choice.switch(following, call, session)
    choice.run_one_sample(following, call, session)
    return True


def _refusal(carrier: Carrier, gm: fx.GraphModule) -> Refusal:
    line = dynamo.line_that_fixed(gm, carrier.input, carrier.dim)
    return Refusal(carrier.input.value.nbytes, line, carrier.facts)


def _no_batch(line: where.Frame | None, name: str, dim: int, size: int) -> str:
    at = f" at {line.where}" if line else ""
    return f"{name}: dim {dim} is no batch, its size {size} became a constant{at}"


def _break_at_transforms(gm: fx.GraphModule) -> None:
    """Break the graph at torch.func transforms, which then run whole: many batching rules make sizes constants."""
    for line in dynamo.lines_of_transforms(gm) if here.call is not None else ():
        retrace.retrace_with_break(line, "torch.func makes a constant of the batch size")


def is_still_symbolic(gm: fx.GraphModule, session: Session) -> bool:
    """Check the batch size after AOTAutograd has traced the graph again, which may have made it a constant.

    False if it is a constant but the batch is so small that it may run whole.
    """
    carriers = [c for c in _carriers(dynamo.inputs(gm)) if isinstance(c.size, torch.SymInt)]
    constant = [c for c in carriers if not c.symbolic]
    if constant and _is_small(constant, session):
        return False
    if constant:
        _break_at_transforms(gm)
        if len(constant) == len(carriers) and _is_one_sample(constant, gm, session):
            return False
    for carrier in constant:
        _became_constant(carrier, gm, session, [c for c in carriers if c.symbolic])
    return True


def _is_small(constant: list[Carrier], session: Session) -> bool:
    """Whether the batch is no larger than a micro-batch that has run, such as the last batch of an epoch.

    If it is so small that a size computed from it is 1, PyTorch makes it a constant.
    """
    call = here.call
    size = call.batch if call is not None else max(c.hint for c in constant)
    if size > session.journal.most_rows:
        return False
    session.note(f"a batch of {size}, no larger than a micro-batch before, ran whole: its size became a constant")
    return True


def _carriers(inputs: list[Input]) -> list[Carrier]:
    """The inputs that carry the batch, or have its size; else rows that were made of it outside of the graphs."""
    call = here.call
    known = [] if call is not None and choice.has_rows(call) else list(_known(inputs))
    if known or call is None or not batch_data.trains(inputs):
        return known
    return [Carrier(given, 0, GUESSED, given.name) for given in batch_data.largest_rows(inputs, call)]


def _known(inputs: list[Input]) -> Iterator[Carrier]:
    """The inputs that carry the batch, or have its size."""
    call = here.call
    batch = call.batch if call else None
    for given in inputs:
        if not isinstance(given.value, torch.Tensor) or given.value.dim() == 0:
            continue
        if call is not None and id(given.value) in call.leaves:
            yield from _argument(given, call.leaves[id(given.value)])
        elif (dim := graph_outputs.dim_of(given.value)) is not None:
            yield Carrier(given, dim, CARRIED, given.name)
        elif not isinstance(given.value, torch.nn.Parameter) and not dynamo.is_owned(given.source):
            kind = GUESSED
            if batch is None:  # outside a decorated call: dim 0 of the first candidate
                batch = given.value.shape[0]
                kind = LEADING if dynamo.is_argument(given.source) else GUESSED
            dims = [d for d in range(given.value.dim() if call else 1) if given.value.shape[d] == batch > 1]
            yield from (Carrier(given, d, kind, given.name) for d in dims[:1])


def _argument(given: Input, leaf: Leaf) -> Iterator[Carrier]:
    """An argument of the decorated step, where it carries the batch."""
    if leaf.dim is not None:
        kind = DECLARED if leaf.declared else LEADING if leaf.leading else BESIDE if leaf.beside else INFERRED
        carrier = Carrier(given, leaf.dim, kind, leaf.name)
        if carrier.symbolic or kind != BESIDE:
            yield carrier


# One symbol


def _unified(carriers: list[Carrier]) -> BatchSymbols:
    """Make the sizes of ``carriers`` one symbol: a Dynamo guard checks at each call that they are equal."""
    first = next((c for c in carriers if c.kind in PRIMARY), carriers[0])
    sizes = [c.size for c in carriers if c.hint == first.hint]
    for size in sizes:
        bool(size == first.size)
    own = _own_symbols(carriers)
    symbols = frozenset().union(*(_batch_of(s.node.expr, own) for s in sizes if isinstance(s, torch.SymInt)))
    return BatchSymbols(symbols, declared=any(c.kind == DECLARED for c in carriers))


def _own_symbols(carriers: list[Carrier]) -> set[sympy.Symbol]:
    """The symbols that are a batch size by themselves, not only a factor of a flattened dimension's size."""
    call = here.call
    alone = [c for c in carriers if isinstance(c.size, torch.SymInt) and c.size.node.expr.is_Symbol]
    batch = call.batch if call is not None else alone[0].hint if alone else None
    return {c.size.node.expr for c in alone if c.hint == batch and isinstance(c.size, torch.SymInt)}


def _batch_of(size: sympy.Expr, own: set[sympy.Symbol]) -> set[sympy.Symbol]:
    """The batch's symbols in a size: in ``s * t``, of a flattened dimension, the one that is a batch size itself."""
    return size.free_symbols if len(size.free_symbols) == 1 else size.free_symbols & own


def _became_constant(carrier: Carrier, gm: fx.GraphModule, session: Session, others: list[Carrier]) -> None:
    """Report an input whose batch size user code made a constant: an error if declared, or if no other is left.

    A frame whose inputs are outputs of our graphs then runs whole, such as a loss on Python lists of one object per
    sample: the safety net reports what that costs.
    """
    line, facts = dynamo.line_that_fixed(gm, carrier.input, carrier.dim), carrier.facts
    if carrier.kind == DECLARED:
        raise errors.error("AC014", line, **facts)
    if carrier.kind == GUESSED or not _trains(gm):
        return
    if carrier.kind in PRIMARY:
        if not others and carrier.kind != CARRIED:
            if lists := _lists_of_the_batch():
                raise errors.error("AC040", line, lists=lists, **facts)
            worst = max([_refusal(carrier, gm), *(here.call.refusals if here.call else ())], key=lambda r: r.bytes)
            raise errors.error("AC015", worst.line, **worst.facts)
        if not _followed(carrier, others, session):
            errors.warn("AC016", session, line, **facts)
    session.note(_no_batch(line, **facts))
    session.part(Candidates).refused.add(carrier.name)


def _followed(leader: Carrier, others: list[Carrier], session: Session) -> bool:
    """Whether a larger argument of the batch's size leads from now on, such as samples beside as many class weights."""
    larger = [c for c in others if c.kind == INFERRED and c.input.value.nbytes > leader.input.value.nbytes]
    if larger and leader.kind == LEADING:
        session.part(Candidates).leader = larger[0].name, larger[0].dim
    return bool(larger) and leader.kind == LEADING


def _lists_of_the_batch() -> str:
    """The arguments of the call that are Python lists of one value per sample."""
    call = here.call
    if call is None:
        return ""
    return ", ".join(n for key, value in call.arguments.items() for n in batches.lists(key, value, call.batch))


def _trains(gm: fx.GraphModule) -> bool:
    """Whether a backward can go through this graph."""
    values = (given.value for given in dynamo.inputs(gm))
    return torch.is_grad_enabled() and any(isinstance(v, torch.Tensor) and v.requires_grad for v in values)
