"""Makes a body update its accumulators itself, in place.

Before, a body returns its contribution to each carry and its piece of each y::

    def body(w, x):
        grad = aten.mm.default(aten.permute.default(x, [1, 0]), x)
        return (grad, y)

After, for every micro-batch but the first (``acc`` and ``out``, a slice of y's buffer, are new arguments)::

    def body(acc, out, w, x):
        aten.addmm_.default(acc, aten.permute.default(x, [1, 0]), x)
        aten.copy_.default(out, y)
        return ()

The first micro-batch returns its contributions, which become the accumulators: nothing is filled with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node

from accumcompile.ir.carry import REDUCTIONS
from accumcompile.ir.torch_api import graph_of

from .rewriting import copied

aten, prims = torch.ops.aten, torch.ops.prims
Tensor = torch.Tensor


@dataclass(frozen=True)
class Accumulation:
    """What to do with a body's outputs.

    ``ops`` are the carries' reductions. ``accumulators`` are the accumulators to update, or, for the first
    micro-batch, the dtypes in which to return the contributions. ``slots`` are the slices of the buffers for the ys,
    or None if the piece is returned.
    """

    ops: Sequence[str]
    accumulators: Sequence[Tensor | torch.dtype]
    slots: Sequence[Tensor | None]


def fuse_accumulation(gm: GraphModule, context: Accumulation) -> GraphModule:
    """A copy of ``gm``, whose nodes carry fake tensors in ``meta["val"]``, that updates its accumulators itself.

    The new arguments come first: the accumulators, then the slots.
    """
    gm = copied(gm)
    graph = gm.graph
    output = graph.output_node()
    outputs = list(output.args[0])
    parts, pieces = outputs[: len(context.ops)], outputs[len(context.ops) :]
    accs = _placeholders(graph, "acc", context.accumulators)
    outs = _placeholders(graph, "out", context.slots)
    returned: list = []
    for op, part, acc, into in zip(context.ops, parts, accs, context.accumulators, strict=True):
        if isinstance(into, torch.dtype):
            returned.append(_cast(graph, part, into))
        elif acc is not None:
            with graph.inserting_before(_after(part, output)):
                UPDATES.get(op, _reduce)(graph, op, acc, _cast(graph, part, acc.meta["val"].dtype))
    for piece, out in zip(pieces, outs, strict=True):
        if out is None:
            returned.append(piece)
        else:
            with graph.inserting_before(_after(piece, output)):
                graph.call_function(aten.copy_.default, (out, piece))
    output.args = (tuple(returned),)
    graph.eliminate_dead_code()
    gm.recompile()
    return gm


def _placeholders(graph: Graph, name: str, values: Sequence) -> list[Node | None]:
    """A placeholder for each tensor in ``values``, before the body's own placeholders."""
    first = next(n for n in graph.nodes if not n.meta.get("accumulates"))
    nodes: list[Node | None] = []
    with graph.inserting_before(first):
        for i, value in enumerate(values):
            node = graph.placeholder(f"{name}{i}") if isinstance(value, Tensor) else None
            if node is not None:
                node.meta |= {"val": value, "accumulates": True}
            nodes.append(node)
    return nodes


def _after(node: Node, output: Node) -> Node:
    """The place right after ``node``, so that its operands are freed early; the end if it is an argument."""
    return output if node.op in ("placeholder", "get_attr") else node.next


def _cast(graph: Graph, part: Node, dtype: torch.dtype) -> Node:
    """``part`` in the accumulator's dtype; the cast is fused into the update."""
    value = part.meta["val"]
    if value.dtype == dtype:
        return part
    with graph.inserting_before(_after(part, graph.output_node())):
        node = graph.call_function(prims.convert_element_type.default, (part, dtype))
    node.meta["val"] = value.to(dtype)
    return node


# --- updates


def _reduce(graph: Graph, op: str, acc: Node, part: Node) -> None:
    """acc = op(acc, part), for reductions without a specialised update."""
    traced = graph_of(REDUCTIONS[op], acc.meta["val"], part.meta["val"])
    env = dict(zip(traced.graph.find_nodes(op="placeholder"), (acc, part), strict=True))
    result = graph.graph_copy(traced.graph, env)
    graph.call_function(aten.copy_.default, (acc, result))


def _sum(graph: Graph, op: str, acc: Node, part: Node) -> None:
    """acc += part, in place without materialising ``part`` if that is possible."""
    if not _accumulates_itself(acc, part):
        total = graph.call_function(aten.add.Tensor, (acc, part))
        graph.call_function(aten.copy_.default, (acc, total))
        return
    TERMS[part.target](graph, acc, part)


UPDATES: dict[str, Callable[[Graph, str, Node, Node], None]] = {"sum": _sum}


def _accumulates_itself(acc: Node, part: Node) -> bool:
    """Whether ``part``, or a term of it, can be added to ``acc`` without being materialised."""
    test = TESTS.get(part.target)
    repeated = list(part.graph.output_node().args[0]).count(part) > 1
    value = part.meta.get("val")
    if test is None or repeated or len(part.users) > 1 or value.dtype != acc.meta["val"].dtype:
        return False
    return test(acc, part)


def _added(graph: Graph, acc: Node, part: Node) -> None:
    for term in part.args[:2]:
        _sum(graph, "sum", acc, term)


def _can_split(acc: Node, part: Node) -> bool:
    same = all(isinstance(a, Node) and a.meta["val"].shape == part.meta["val"].shape for a in part.args)
    same = same and not part.kwargs and len(part.args) == 2 and part.args[0] is not part.args[1]
    return same and any(_accumulates_itself(acc, a) for a in part.args)


def _product(graph: Graph, acc: Node, part: Node) -> None:
    graph.call_function(aten.addmm_.default, (acc, *part.args))


def _is_product(acc: Node, part: Node) -> bool:
    return part.meta["val"].is_floating_point()


def _transposed(graph: Graph, acc: Node, part: Node) -> None:
    """acc += (a b)^T is acc += b^T a^T."""
    a, b = part.args[0].args
    args = [graph.call_function(aten.permute.default, (x, [1, 0])) for x in (b, a)]
    graph.call_function(aten.addmm_.default, (acc, *args))


def _is_transposed_product(acc: Node, part: Node) -> bool:
    source = part.args[0]
    return source.target is aten.mm.default and len(source.users) <= 1 and _is_product(acc, source)


SCATTERS = {
    aten.index_put.default: aten.index_put_.default,
    aten._unsafe_index_put.default: prims._unsafe_index_put_.default,
    aten.scatter_add.default: aten.scatter_add_.default,
}
FILLS = (aten.full.default, aten.full_like.default)
ZEROS = (
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
)


def _scattered(graph: Graph, acc: Node, part: Node) -> None:
    graph.call_function(SCATTERS[part.target], (acc, *part.args[1:]), part.kwargs)


def _adds_into_zeros(acc: Node, part: Node) -> bool:
    base = part.args[0]
    is_zeros = base.target in ZEROS or (base.target in FILLS and base.args[1] == 0)
    accumulates = part.target is aten.scatter_add.default or (len(part.args) > 3 and part.args[3] is True)
    return is_zeros and accumulates and base.meta["val"].shape == acc.meta["val"].shape


# How a contribution goes straight into the accumulator, by its operator, and the test of whether it can.
TERMS: dict[object, Callable[[Graph, Node, Node], None]] = {
    aten.add.Tensor: _added,
    aten.mm.default: _product,
    aten.permute.default: _transposed,
    **dict.fromkeys(SCATTERS, _scattered),
}
TESTS: dict[object, Callable[[Node, Node], bool]] = {
    aten.add.Tensor: _can_split,
    aten.mm.default: _is_product,
    aten.permute.default: _is_transposed_product,
    **dict.fromkeys(SCATTERS, _adds_into_zeros),
}
