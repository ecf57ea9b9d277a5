"""Every private name of AOTAutograd that capture uses.

Checked on torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import decompositions
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.convert_frame import compile_lock
from torch._dynamo.utils import to_fake_tensor
from torch._functorch._aot_autograd.descriptors import (
    InputMutationAOTOutput,
    IntermediateBaseAOTOutput,
    PlainAOTInput,
    PlainAOTOutput,
    TangentAOTInput,
)
from torch._functorch.partitioners import _extract_fwd_bwd_modules
from torch._guards import TracingContext, tracing
from torch.fx import GraphModule, Node

from ..dynamo import replacements, zero_dim_floats

Compile = Callable[[GraphModule, Sequence[Any]], Callable]


@contextmanager
def layers_of_operators() -> Iterator[None]:
    """Within the block, an LSTM is traced as the operators of its cells.

    In float32 on a CPU, torch would call oneDNN's operator for the whole layer, with train=False: that cannot be split,
    and its backward lacks what only training saves.
    """
    by_cells = decompositions.one_layer_lstm
    with compile_lock, replacements.held(decompositions, "select_one_layer_lstm_function", lambda *_: by_cells):
        yield


def aot(
    partition: Callable,
    forward: Compile,
    backward: Compile,
    inference: Compile,
    decompositions: Mapping[Any, Callable],
) -> Callable:
    """A Dynamo backend that hands us the joint graph, then the pieces that ``partition`` makes of it."""
    return aot_autograd(
        partition_fn=partition,
        fw_compiler=forward,
        bw_compiler=backward,
        inference_compiler=inference,
        decompositions=decompositions,
    )


def later(capture: Callable[[Sequence[Any]], Callable], inputs: Sequence[Any]) -> Callable:
    """A callable that is captured on its first call, in the tracing context of the capture now in progress.

    Until then it holds fake tensors for ``inputs``, with this capture's sizes: the context forgets which size is
    which symbol when the capture is over.
    """
    context = TracingContext.get()
    assert context.fake_mode is not None and context.fake_mode.shape_env is not None, "a capture is under way"
    sizes = context.fake_mode.shape_env
    stand_ins = [to_fake_tensor(x, context.fake_mode) if isinstance(x, torch.Tensor) else x for x in inputs]
    captured: list[Callable] = []

    def run(*given: Any) -> Any:
        if not captured:
            with compile_lock, tracing(context), torch.enable_grad(), zero_dim_floats.no_frame_again(sizes):
                if not captured:  # another thread may have been first
                    captured.append(capture(stand_ins))
        return captured[0](*given)

    return run


def tangents(gm: GraphModule) -> list[Node]:
    """The tangents: the inputs of a joint graph that are gradients of its outputs."""
    return [n for n in gm.graph.find_nodes(op="placeholder") if isinstance(n.meta.get("desc"), TangentAOTInput)]


def backward_nodes(gm: GraphModule) -> set[Node]:
    """The nodes of a joint graph that are its backward: computed from a tangent, or traced after the forward."""
    nodes = set(tangents(gm))
    for node in gm.graph.nodes:
        if node.meta.get("partitioner_tag") == "is_backward" or not nodes.isdisjoint(node.all_input_nodes):
            nodes.add(node)
    return nodes - set(tangents(gm)) - {gm.graph.output_node()}


def given(gm: GraphModule) -> dict[int, Node]:
    """The user's inputs of a joint graph, by position."""
    described = ((node.meta.get("desc"), node) for node in gm.graph.find_nodes(op="placeholder"))
    return {d.idx: node for d, node in described if isinstance(d, PlainAOTInput)}


def mutated_inputs(gm: GraphModule) -> list[int]:
    """Positions of the inputs that the graph mutates."""
    mutated: list[Any] = [d.mutated_input for _, d in _described(gm) if isinstance(d, InputMutationAOTOutput)]
    return [given.idx for given in mutated]


def user_outputs(gm: GraphModule) -> dict[int, Node]:
    """The outputs of a joint graph that are the user's, by their position among the user's outputs."""
    return {d.idx: node for node, d in _described(gm) if isinstance(d, PlainAOTOutput) and isinstance(node, Node)}


def outputs_of_tangents(gm: GraphModule) -> dict[Node, int | None]:
    """Each tangent, and which of the user's outputs it is the gradient of; None: of something else."""
    return {node: _output(node.meta["desc"].output) for node in tangents(gm)}


def _output(description: Any) -> int | None:
    if isinstance(description, IntermediateBaseAOTOutput):
        return _output(description.base_of)
    return description.idx if isinstance(description, PlainAOTOutput) else None


def inputs_of_gradients(gm: GraphModule) -> list[int | None]:
    """Which of the user's inputs each output of a backward graph is the gradient of; None: of no such input."""
    of = [getattr(description, "grad_of", None) for _, description in _described(gm)]
    return [given.idx if isinstance(given, PlainAOTInput) else None for given in of]


def descriptions(gm: GraphModule, outputs: Sequence[Any]) -> list[Any]:
    """AOTAutograd's descriptions of each of ``outputs`` of a joint graph: one node can be several outputs."""
    described: dict[Any, tuple[Any, ...]] = {}
    for node, description in _described(gm):
        if isinstance(node, Node):
            described[node] = (*described.get(node, ()), description)
    return [described.get(node, ()) if isinstance(node, Node) else () for node in outputs]


def _described(gm: GraphModule) -> list[tuple[Any, Any]]:
    """Each output with AOTAutograd's description of it."""
    output = next(iter(gm.graph.find_nodes(op="output")))
    return list(zip(output.args[0], output.meta["desc"], strict=True))


def extract(joint: GraphModule, saved: list[Node], sizes: list[Node], outputs: int) -> tuple[GraphModule, GraphModule]:
    """Cut a joint graph into forward and backward, saving only ``saved`` and ``sizes`` between them."""
    return _extract_fwd_bwd_modules(joint, saved, sizes, num_fwd_outputs=outputs)


def own_nodes(results: Iterable[Any], before: Set[Any]) -> set[Any]:
    """AOTAutograd's own autograd nodes, between its ``results`` and the nodes of its inputs, ``before``."""
    seen, nodes = set(before), set()
    stack = [value.grad_fn for value in results if isinstance(value, torch.Tensor)]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "CompiledFunctionBackward":
            nodes.add(node)
        else:
            stack += [earlier for earlier, _ in node.next_functions]
    return nodes


def keeps_graph() -> bool:
    """Whether the running backward was asked to retain its graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()
