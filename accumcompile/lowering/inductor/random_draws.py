"""Draws in Inductor's code: the lowerings of our operators (``ir.draws``), which may replace its own draws."""

from __future__ import annotations

import torch
from torch.fx import Graph

from ...ir.draws import SLICES, randint_slice, random_slice, whole_args

prims = torch.ops.prims


def draw_by_index(graph: Graph) -> None:
    """Replace Inductor's draws by our draws of the whole tensor, for GPUs, where the two may differ.

    Triton draws four elements at a time in some kernels, so its numbers depend on how a kernel is tiled.
    """
    for node in [n for n in graph.nodes if n.target in SLICES]:
        with graph.inserting_before(node):
            seed = node.args[1] if node.target is prims.inductor_random.default else node.args[3]
            start = graph.call_function(torch.ops.aten.mul.Tensor, (seed, 0))
            new = graph.call_function(SLICES[node.target], whole_args(node.target, node.args, start))
        new.meta |= node.meta
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def draw_seeds(count: int, device: torch.device) -> torch.Tensor:
    """``prims.inductor_seeds`` outside Inductor, with the numbers that compiled code would draw."""
    limits = torch.iinfo(torch.int64)
    out = torch.empty([count], dtype=torch.int64, device=device)
    return torch.ops.aten.randint.low_out(limits.min, limits.max, [count], out=out)


# --- lowerings of the operators, whose names contain a hash of this file


def _position(size, full_size, dim, start):
    """A function from a local index to the index in the full tensor, as Inductor's own draw counts it."""
    from torch._inductor.ir import FlexibleLayout
    from torch._inductor.virtualized import ops

    strides = FlexibleLayout.contiguous_strides(full_size)
    step = strides[dim] if strides else 0
    load = start.make_loader()

    def position(index):
        local = sum(i * s for i, s in zip(index, strides, strict=True))
        shift = ops.mul(load([]), ops.index_expr(step, torch.int64))
        return ops.to_dtype(ops.add(ops.index_expr(local, torch.int64), shift), torch.int32)

    return position


def _lower_random(size, full_size, dim, start, seed, mode):
    from torch._inductor.ir import Pointwise
    from torch._inductor.virtualized import ops

    position, load = _position(size, full_size, dim, start), seed.make_loader()
    result = Pointwise.create(
        device=seed.get_device(),
        dtype=torch.float32,
        inner_fn=lambda index: getattr(ops, mode)(load([]), position(index)),
        ranges=list(size),
    )
    result.realize()
    return result


def _lower_randint(low, high, size, full_size, dim, start, seed):
    from torch._inductor.ir import Pointwise
    from torch._inductor.virtualized import ops

    position, load = _position(size, full_size, dim, start), seed.make_loader()

    def inner(index):
        bounds = ops.index_expr(low, torch.int64), ops.index_expr(high, torch.int64)
        return ops.randint64(load([]), position(index), *bounds)

    return Pointwise.create(device=seed.get_device(), dtype=torch.int64, inner_fn=inner, ranges=list(size))


def _register() -> None:
    from torch._inductor.lowering import register_lowering

    for op, lowering in ((random_slice, _lower_random), (randint_slice, _lower_randint)):
        register_lowering(op, type_promotion_kind=None)(lowering)


_register()
