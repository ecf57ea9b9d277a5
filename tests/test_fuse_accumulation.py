"""The pass that makes a body update its accumulators: what it writes, and that it computes the same."""

from __future__ import annotations

import pytest
import torch
from loops import aten, body_of, prims

from accumcompile.lowering.specialise import specialise
from accumcompile.lowering.specs import Array, Literal
from accumcompile.passes.fuse_accumulation import Accumulation, fuse_accumulation

CPU = torch.device("cpu")


def spec_of(x):
    return Array(tuple(x.shape), x.stride(), x.dtype, x.device)


def fused(body, carry, xs, dtype=torch.float32, slots=()):
    """The body of later micro-batches, and the names of its operators."""
    body = body_of(body, *[None] * len(xs))
    start = Array((), (), torch.int64, CPU)
    done = specialise(body.graph, body, [Literal(int, 4), start, *map(spec_of, xs)], {})
    parts = [n.meta["val"] for n in done.gm.graph.output_node().args[0]][: len(carry)]
    with done.trace.mode:
        accumulators = [torch.empty_like(p, dtype=dtype) for p in parts]
    gm = fuse_accumulation(done.gm, Accumulation(carry, accumulators, slots))
    return gm, [n.target for n in gm.graph.nodes if n.op == "call_function"]


def product(rows, start, a, b):
    return (aten.mm.default(a, b),)


def transposed_product(rows, start, a, b):
    return (aten.permute.default(aten.mm.default(a, b), [1, 0]),)


def sum_of_products(rows, start, a, b):
    return (aten.add.Tensor(aten.mm.default(a, b), aten.mm.default(a, aten.tanh.default(b))),)


def scattered(rows, start, a, b):
    zeros = aten.mul.Tensor(a, 0.0)
    zeros = aten.full_like.default(zeros, 0)
    index = prims.convert_element_type.default(aten.abs.default(aten.select.int(b, 1, 0)), torch.int64)
    return (aten.index_put.default(zeros, [aten.clamp.default(index, 0, 3)], b, True),)


def plain(rows, start, a, b):
    return (aten.mul.Tensor(a, b),)


def used_twice(rows, start, a, b):
    h = aten.mm.default(a, b)
    return h, aten.sum.default(h), h


ADDS = [aten.add.Tensor, aten.copy_.default]


@pytest.mark.parametrize(
    ("body", "operators"),
    [
        (product, [aten.addmm_.default]),
        (transposed_product, [aten.permute.default, aten.permute.default, aten.addmm_.default]),
        (sum_of_products, [aten.addmm_.default, aten.tanh.default, aten.addmm_.default]),
        (plain, [aten.mul.Tensor, *ADDS]),
    ],
)
def test_what_it_writes(body, operators):
    _, targets = fused(body, ["sum"], [torch.randn(4, 4), torch.randn(4, 4)])
    assert sorted(map(str, targets)) == sorted(map(str, operators))


def test_a_scatter_goes_straight_into_the_accumulator():
    _, targets = fused(scattered, ["sum"], [torch.randn(4, 4), torch.randn(4, 4)])
    assert aten.index_put_.default in targets and aten.full_like.default not in targets


@pytest.mark.parametrize("body", [product, transposed_product, sum_of_products, scattered, plain, used_twice])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_computes_the_same(body, dtype):
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    parts = body(4, torch.tensor(0), a, b)
    gm, _ = fused(body, ["sum"] * len(parts), [a, b], dtype)
    accumulators = [torch.randn_like(p, dtype=dtype) for p in parts]
    expected = [acc + p for acc, p in zip(accumulators, parts, strict=True)]
    values = {"a": a, "b": b}
    names = [n.name for n in gm.graph.find_nodes(op="placeholder")][len(parts) :]
    assert gm(*accumulators, *(values[n] for n in names)) == ()
    for acc, other in zip(accumulators, expected, strict=True):
        torch.testing.assert_close(acc, other)


def test_the_first_micro_batch_returns_its_contributions_in_the_accumulators_dtype():
    body = body_of(product, None, None)
    a = torch.randn(4, 4, dtype=torch.bfloat16)
    start = Array((), (), torch.int64, CPU)
    done = specialise(body.graph, body, [Literal(int, 4), start, spec_of(a), spec_of(a)], {})
    gm = fuse_accumulation(done.gm, Accumulation(["sum"], [torch.float32], []))
    (part,) = gm(a, a)
    assert part.dtype == torch.float32
