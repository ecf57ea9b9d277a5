"""From Dynamo's graph to a callable: AOTAutograd, the roads, and outputs that stay differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.fx import GraphModule, Node

from ...ir.names import Names
from ...ir.operands import ancestors, outputs
from ...passes import NORMALISATION
from ...passes.manager import run
from ...passes.rewriting import copied
from ...session.session import Session
from ..dynamo import api as dynamo
from ..dynamo import zero_dim_floats
from ..dynamo.graph_batch import BatchSymbols
from . import api as aot_api
from . import kept_numbers, node_naming, untraceable
from .beside_loss import reattached
from .data_assignment import assigning, made_outputs
from .detaching import detach
from .joint_passes import Normalising, improve
from .roads import Roads
from .row_conditions import ask_divided
from .saved_inputs import Changeable
from .undefined_gradients import tangents_reached, undefined_stays
from .unfused import respell


class PieceCompiler(Protocol):
    """Made anew for each trace of a graph: observes it after each pass, and compiles the pieces it is cut into."""

    def observe(self, step: str, gm: GraphModule, seconds: float) -> None:
        """Called with the graph after one more pass."""

    def compile(self, gm: GraphModule, road: str, names: Names, owned_from: int | None) -> Callable:
        """A boxed callable that computes what ``gm`` computes, micro-batch by micro-batch."""


Compilers = Callable[[], PieceCompiler]


def split_graph(
    gm: GraphModule, example_inputs: Sequence[Any], batch: BatchSymbols, session: Session, new_compiler: Compilers
) -> Callable:
    """Compile one graph of a step, whose batch is named by ``batch.symbols``."""
    node_naming.name_nodes(gm)
    respell(gm)
    gm, kept = kept_numbers.beside(gm)
    gm, assigned = made_outputs(gm)
    with zero_dim_floats.tensors_stay_tensors(gm):
        run = _compiled(gm, example_inputs, batch, session, new_compiler)
    return kept_numbers.keeping(assigning(run, assigned), kept)


def _compiled(
    gm: GraphModule, example_inputs: Sequence[Any], batch: BatchSymbols, session: Session, new_compiler: Compilers
) -> Callable:
    changeable = Changeable.of(example_inputs)

    def captured(gm: GraphModule, inputs: Sequence[Any], **how: Any) -> tuple[Callable, Roads]:
        return capture_along(gm, inputs, batch, session, new_compiler, changeable, **how)

    sink = scalar_sink(gm)
    if sink is None:
        return captured(gm, example_inputs)[0]
    others = [o for o in dynamo.differentiable_outputs(gm) if o is not sink]
    if not others:
        return captured(gm, example_inputs, fused=True)[0]
    positions = [outputs(gm).index(o) for o in others]
    alone, roads = captured(detached(gm, others), example_inputs, fused=True, beside=positions)
    if not roads.linear:  # tangents that arrive together must go through the backward together
        return captured(gm, example_inputs)[0]
    beside = aot_api.later(lambda inputs: captured(returning(gm, others), inputs)[0], example_inputs)
    changing = set(roads.mutated) | (set(roads.reads) & changeable.copied - roads.read)
    return reattached(alone, beside, positions, sorted(changing), roads.reads)


def capture_along(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    batch: BatchSymbols,
    session: Session,
    new_compiler: Compilers,
    changeable: Changeable,
    fused: bool = False,
    beside: Sequence[int] = (),
) -> tuple[Callable, Roads]:
    """Compile with AOTAutograd, along the fused road if it is asked for and proven correct."""

    names, lowering = Names.of(gm), session.lowering

    def new_roads() -> Roads:
        compiler = new_compiler()

        def normalise(graph: GraphModule) -> GraphModule:
            compiler.observe("captured", graph, 0.0)
            context = Normalising(draws_by_seed=lowering.draws_by_seed, note=session.note)
            return run([improve, *NORMALISATION], graph, context, [compiler.observe])

        def piece(graph: GraphModule, road: str, owned_from: int | None) -> Callable:
            ask_divided(graph, batch.symbols)
            return compiler.compile(graph, road, names, owned_from)

        return Roads(piece, normalise, fused, tangents_reached(gm), beside, changeable)

    def trace(roads: Roads) -> Callable:
        pieces = roads.partition, roads.forward, roads.backward, roads.inference
        backend = aot_api.aot(*pieces, lowering.decompositions())
        with aot_api.layers_of_operators():
            return backend(gm, example_inputs)

    roads = new_roads()
    with untraceable.failures_named(again=lambda: trace(new_roads()), over=lambda: roads.traced):
        compiled = trace(roads)
    return undefined_stays(compiled) if roads.tangents > 1 else compiled, roads


def scalar_sink(gm: GraphModule) -> Node | None:
    """The loss: the one scalar among the differentiable outputs from which no other such scalar is computed."""
    if not torch.is_grad_enabled():
        return None
    scalars = [o for o in dynamo.differentiable_outputs(gm) if o.meta["example_value"].dim() == 0]
    sinks = [s for s in scalars if not any(s in ancestors(o) for o in scalars if o is not s)]
    return sinks[0] if len(sinks) == 1 else None


def detached(gm: GraphModule, chosen: list[Node]) -> GraphModule:
    """A copy of the graph with the outputs ``chosen`` detached."""
    names = {o.name for o in chosen}
    gm = copied(gm)
    output = gm.graph.output_node()

    def cut(node: Node) -> Node:
        return detach(gm, node, output) if node.name in names else node

    output.args = torch.fx.map_arg(output.args, cut)
    gm.recompile()
    return gm


def returning(gm: GraphModule, chosen: list[Node]) -> GraphModule:
    """A copy of the graph with only the outputs ``chosen``."""
    names = [o.name for o in chosen]
    gm = copied(gm)
    output = gm.graph.output_node()
    by_name = {n.name: n for n in gm.graph.nodes}
    output.args = (tuple(by_name[name] for name in names),)
    gm.recompile()
    return gm
