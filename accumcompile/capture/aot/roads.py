"""The roads by which a captured graph runs: fused, two-pass, or as inference.

Fused: forward and backward of a micro-batch run together in the forward call, with a tangent of 1, and only the
gradients are saved; the backward call multiplies them by the actual tangent. This is correct only if the backward is
linear in its tangent, which is proven by propagating the tangent as P(sum) and everything else as R: the rules for
partial sums are rules for linearity.

Two-pass: the forward saves its inputs, and the backward recomputes each micro-batch. Always correct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from ...ir.operands import ancestors, is_size, outputs
from ...ir.placement import Partial, R
from ...ir.sizes import NO_BATCH
from ...passes.rewriting import placeholders_first
from ...propagation.propagate import propagate
from ...rules.table import is_impure
from . import api as aot_api
from .saved_inputs import NOTHING, Changeable, handing_over, needed_backwards, read_backwards
from .undefined_gradients import passing_undefined

aten = torch.ops.aten
CompilePiece = Callable[[GraphModule, str, int | None], Callable]


class Roads:
    """Chooses a road for one captured graph and compiles its pieces."""

    def __init__(
        self,
        compile_piece: CompilePiece,
        normalise: Callable[[GraphModule], GraphModule],
        wants_fused: bool,
        reach: Sequence[set[int]],
        beside: Sequence[int] = (),
        changeable: Changeable = NOTHING,
    ):
        self.compile_piece, self.wants_fused = compile_piece, wants_fused
        self.normalise = normalise  # rewrites a captured graph in operators that rules know, each value computed once
        self.reach = reach  # for each output, positions of the inputs that autograd reaches from it
        self.beside = beside  # positions of the outputs beside the loss that stay differentiable
        self.changeable = changeable
        self.road = "inference"
        self.linear = False  # whether the loss's backward is proven linear in its tangent
        self.traced = False  # whether AOTAutograd has finished tracing and called us
        self.tangents = 0  # the number of tangents of the joint graph
        self.read: set[int] = set()  # positions of the inputs that the backward reads, as eager's does
        self.mutated: list[int] = []  # positions of the inputs that the graph mutates
        self.reads: list[int] = []  # positions of the inputs that the outputs beside the loss are computed from
        self.halves: FusedHalves | None = None

    def partition(
        self, joint: GraphModule, inputs: Any, *, num_fwd_outputs: int, **_: Any
    ) -> tuple[GraphModule, GraphModule]:
        """AOTAutograd's ``partition_fn``."""
        self.traced = True
        self.read = read_backwards(joint)
        joint = self.normalise(joint)
        self.tangents = len(aot_api.tangents(joint))
        self.mutated = aot_api.mutated_inputs(joint)
        self.reads = inputs_behind(joint, self.beside) if self.beside else []
        self.linear = self.wants_fused and has_linear_backward(joint, num_fwd_outputs)
        if self.linear and not computes_in_float16(joint):
            self.road = "fused"
            self.halves = FusedHalves(
                joint, num_fwd_outputs, sorted(self.read & self.changeable.given - set(self.mutated))
            )
            return self.halves.forward, self.halves.backward
        self.road = "two-pass"
        return two_pass(joint, num_fwd_outputs, self.changeable.copied - self.read)

    def forward(self, gm: GraphModule, inputs: Sequence[Any]) -> Callable:
        """AOTAutograd's ``fw_compiler``."""
        if self.halves is not None:
            checked = self.halves.without_checked(gm)
            return handing_over(self.compile_piece(gm, "fused", len(self.halves.results)), checked)
        return self.compile_piece(gm, "forward", None)

    def backward(self, gm: GraphModule, inputs: Sequence[Any]) -> Callable:
        """AOTAutograd's ``bw_compiler``."""
        if self.road != "fused" or self.halves is None:
            return passing_undefined(gm, self.compile_piece(gm, "backward", 0), self.reach)
        scale, self.halves = self.halves.scale(), None  # free the joint graph, which is large
        return scale

    def inference(self, gm: GraphModule, inputs: Sequence[Any]) -> Callable:
        """AOTAutograd's ``inference_compiler``."""
        self.traced = True
        return self.compile_piece(self.normalise(gm), "inference", None)


def inputs_behind(joint: GraphModule, positions: Sequence[int]) -> list[int]:
    """Positions of the inputs that the user's outputs at ``positions`` are computed from; all, if that is unknown."""
    given = joint.graph.find_nodes(op="placeholder")
    values = aot_api.user_outputs(joint)
    if any(p not in values for p in positions):
        return list(range(len(given)))
    sources = set().union(*(ancestors(values[p]) | {values[p]} for p in positions))
    return [i for i, node in enumerate(given) if node in sources]


def has_linear_backward(joint: GraphModule, num_fwd_outputs: int) -> bool:
    """Whether there is one scalar tangent, and every gradient is proven linear in it."""
    tangents = aot_api.tangents(joint)
    if len(tangents) != 1 or tangents[0].meta["val"].dim() != 0:
        return False
    return is_linear(joint, tangents[0], outputs(joint)[num_fwd_outputs:])


def computes_in_float16(joint: GraphModule) -> bool:
    """Whether a value is in float16: gradients may underflow before a GradScaler's factor arrives from outside."""
    values = [n.meta.get("val") for n in joint.graph.nodes]
    return any(isinstance(v, torch.Tensor) and v.dtype == torch.float16 for v in values)


def is_linear(joint: GraphModule, tangent: Node, gradients: list[Node | None]) -> bool:
    """Whether every gradient is proven linear in the tangent."""
    propagation = propagate(joint.graph, NO_BATCH, dict.fromkeys(joint.graph.nodes, R) | {tangent: Partial("sum")})
    placed = [propagation[g] for g in gradients if g is not None]
    return all(p.placement == Partial("sum") or p.zero for p in placed)


class FusedHalves:
    """The two halves of the fused road: a forward that saves gradients, and a backward that scales them.

    The backward half is a hand-written boxed callable, not a compiled graph: it multiplies in place, as the saved
    gradients own their memory (``Runner``). Otherwise gradients would need twice their memory.
    """

    def __init__(self, joint: GraphModule, num_fwd_outputs: int, checked: Sequence[int]):
        (self.tangent,) = aot_api.tangents(joint)
        inputs = aot_api.given(joint)
        self.checked = [inputs[i] for i in checked]  # saved for the backward only for autograd's version check
        self.results, self.gradients = outputs(joint)[:num_fwd_outputs], outputs(joint)[num_fwd_outputs:]
        self.distinct = list(dict.fromkeys(g for g in self.gradients if g is not None))
        self.forward = self._forward(joint)
        self.backward = self._backward()

    def _forward(self, joint: GraphModule) -> GraphModule:
        graph, new = Graph(), {}
        for node in joint.graph.nodes:
            if node is self.tangent:
                value = node.meta["val"]
                new[node] = graph.call_function(
                    aten.full.default, ([], 1), {"dtype": value.dtype, "device": value.device}
                )
                new[node].meta["val"] = value
            elif node.op != "output":
                new[node] = graph.node_copy(node, new.__getitem__)
        results = torch.fx.map_arg(self.results, new.__getitem__)
        output = graph.output([*results, *(new[g] for g in (*self.distinct, *self.checked))])
        output.meta["desc"] = aot_api.descriptions(joint, [*self.results, *self.distinct, *self.checked])
        return GraphModule(joint, placeholders_first(graph))

    def _backward(self) -> GraphModule:
        """The graph that AOTAutograd expects: what ``scale`` does, as nodes."""
        graph = Graph()
        saved = {node: graph.placeholder(f"kept_{node.name}") for node in self.distinct}
        saved |= {node: graph.placeholder(f"checked_{node.name}") for node in self.checked}
        tangent = graph.placeholder(self.tangent.name)
        for node, new in (*saved.items(), (self.tangent, tangent)):
            new.meta["val"] = node.meta["val"]
        products = [g and graph.call_function(aten.mul.Tensor, (saved[g], tangent)) for g in self.gradients]
        for node, product in zip(self.gradients, products, strict=True):
            if product is not None:
                product.meta["val"] = node.meta["val"]
        graph.output(products)
        return GraphModule(torch.nn.Module(), graph)

    def without_checked(self, forward: GraphModule) -> list[int]:
        """Remove inputs that are only version-checked from the outputs of ``forward``: no loop need return them.

        Returns their positions among its inputs.
        """
        output = forward.graph.output_node()
        count = len(output.args[0]) - len(self.checked)
        inputs = forward.graph.find_nodes(op="placeholder")
        positions = [inputs.index(node) for node in output.args[0][count:]]
        output.args = (output.args[0][:count],)
        output.meta["desc"] = output.meta["desc"][:count]
        return positions

    def scale(self) -> Callable[[list], list]:
        """The backward call: gradients times the tangent."""
        return scaling([None if g is None else self.distinct.index(g) for g in self.gradients])


def scaling(positions: Sequence[int | None]) -> Callable[[list], list]:
    """A boxed callable that multiplies saved gradients, given by position, by the tangent, its last argument."""
    last = {position: i for i, position in enumerate(positions)}

    def scaled(arguments: list) -> list:
        *saved, tangent = arguments
        arguments.clear()
        in_place = not aot_api.keeps_graph()
        given: list = []
        for i, position in enumerate(positions):
            if position is None:
                given.append(None)
            elif in_place and last[position] == i:
                given.append(saved[position].mul_(tangent))
            else:
                given.append(saved[position] * tangent)
        return given

    backward: Any = scaled
    backward._boxed_call = True
    return backward


def two_pass(
    joint: GraphModule, num_fwd_outputs: int, copied: Set[int] = frozenset()
) -> tuple[GraphModule, GraphModule]:
    """A forward that saves its inputs and its random draws, and a backward that recomputes everything else.

    Of inputs that the graph mutates, and of those at the positions ``copied``, it saves copies if gradients need them.
    """
    tangents = set(aot_api.tangents(joint))
    inputs = [n for n in joint.graph.find_nodes(op="placeholder") if n not in tangents]
    mutated = {inputs[i] for i in aot_api.mutated_inputs(joint)}
    needed = needed_backwards(joint, num_fwd_outputs)
    changing = needed & (mutated | {n for i, n in aot_api.given(joint).items() if i in copied})
    saved = [_kept_copy(joint, n) if n in changing else n for n in inputs if not is_size(n)]
    saved += [n for n in _drawn(joint) if _is_before(n, tangents)]
    sizes = [n for n in inputs if is_size(n)]
    joint.graph.lint()
    return aot_api.extract(joint, saved, sizes, num_fwd_outputs)


def _kept_copy(joint: GraphModule, node: Node) -> Node:
    """A copy of an input, which may be overwritten before the backward."""
    *_, last = joint.graph.find_nodes(op="placeholder")
    with joint.graph.inserting_after(last):
        copy = joint.graph.call_function(aten.clone.default, (node,))
    copy.meta |= {k: v for k, v in node.meta.items() if k != "desc"} | {"copy_of": node.meta.get("desc")}
    node.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    return copy


def _drawn(joint: GraphModule) -> list[Node]:
    """The tensors that may be computed only once, such as random draws."""
    return [
        n
        for n in joint.graph.nodes
        if n.op == "call_function" and is_impure(n) and isinstance(n.meta.get("val"), torch.Tensor)
    ]


def _is_before(node: Node, tangents: set[Node]) -> bool:
    """Whether a node does not depend on the tangents."""
    return tangents.isdisjoint(ancestors(node))
