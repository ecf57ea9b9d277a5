"""Compiling one captured graph: normalise, propagate, schedule, form loops, lower."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import sympy
import torch
from torch.fx import GraphModule, Node

from ..ir.divisibility import divisible
from ..ir.names import Names
from ..ir.operands import input_sizes, is_size, shape_of
from ..ir.sizes import NO_BATCH, Batch, expression
from ..passes import GRAPH_PASSES, PROGRAM_PASSES, spec
from ..passes.assembled_outputs import assembled_outputs
from ..passes.manager import Context, Planned, run
from ..planning.decisions import schedule
from ..program.runner import Runner
from ..propagation.seeds import propagate_seeded
from ..report import facts
from ..report.dump import dumper_of
from ..report.kept_outputs import first_run, warn_of_kept
from ..report.unsplit_graph import warn_of_unsplit
from ..session.session import Session
from .no_harm import Pieces


class Compiler:
    """Compiles the pieces of one traced graph; the first piece's dump begins with the passes before partitioning.

    Args:
        session: read at each call of a piece for the number of micro-batches.
        symbols: the batch's symbols. A graph in which none of them occurs has no loops.
        pieces: receives the facts of each piece.
    """

    def __init__(self, session: Session, symbols: Iterable[sympy.Symbol], pieces: Pieces):
        self.session, self.symbols, self.pieces = session, symbols, pieces
        self.history = dumper_of(session).history()

    def observe(self, step: str, gm: GraphModule, seconds: float) -> None:
        """Keep the graph after one more pass, for the dump."""
        self.history.observe(step, gm, seconds)

    def compile(self, gm: GraphModule, road: str, names: Names, owned_from: int | None = None) -> Callable:
        """A boxed callable that computes what ``gm`` computes, micro-batch by micro-batch.

        Args:
            gm: a functional ATen graph with fake values.
            road: the road by which the graph was captured, for the report.
            names: what the user calls the graph's inputs and outputs, for the report.
            owned_from: outputs from this position on must own their memory; None: no output must.
        """
        session, batch = self.session, batch_of(gm, self.symbols)
        dump = dumper_of(session).graph(road)
        self.history.into(dump)
        dump.write(road, gm)
        context, observers = Context(batch, names), [dump.observe, spec.check_graph]
        traced = run(GRAPH_PASSES, gm, context, observers)
        gm = run([assembled_outputs], traced, context, observers)
        propagation = propagate_seeded(gm.graph, batch)
        spec.check_placed(propagation)
        dump.placed(gm, propagation)
        plan = schedule(gm.graph, propagation)
        spec.check_schedule(plan)
        planned = Planned(plan, session.options.accumulator_dtype)
        program = run(PROGRAM_PASSES, gm, planned, [dump.observe, spec.check_program])
        report = facts.plan_facts(road, gm.graph, plan, program, names)
        self.pieces.add(report, gm)
        first = first_run(report, gm, session)
        dump.program(program, first, session)
        warn_of_kept(first, session)
        warn_of_unsplit(first, session)
        ran = partial(session.journal.ran, report)
        return Runner(session.lowering.lower(program), traced, plan, session.split, ran, owned_from)


def batch_of(gm: GraphModule, symbols: Iterable[sympy.Symbol]) -> Batch:
    """The batch of a graph: those of ``symbols`` that occur in a size of an input."""
    sizes = [s for n in gm.graph.nodes for s in _sizes(n)]
    bound = {s for n in gm.graph.find_nodes(op="placeholder") for size in _sizes(n) for s in _symbols(size)}
    present = bound & set(symbols)
    traced = (s for s in input_sizes(gm) if s.node.expr in present)
    return Batch.of(present, sizes, divisible(traced), _leading(gm) - set(symbols)) if present else NO_BATCH


def _leading(gm: GraphModule) -> set[sympy.Symbol]:
    """The symbols that are the leading size of an input."""
    shapes = (shape_of(node) for node in gm.graph.find_nodes(op="placeholder"))
    return {shape[0] for shape in shapes if shape and isinstance(shape[0], sympy.Symbol)}


def _sizes(node: Node) -> list:
    if is_size(node):
        value = node.meta["val"]
        return [expression(value)] if isinstance(value, torch.SymInt) else []
    return list(shape_of(node) or ())


def _symbols(size: object) -> set[sympy.Symbol]:
    return size.free_symbols if isinstance(size, sympy.Expr) else set()
