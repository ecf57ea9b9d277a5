"""Rules that need code: alignments computed from arguments, and how some nodes are emitted into a body."""

from __future__ import annotations

import operator
from collections.abc import Set as AbstractSet
from functools import partial, reduce

import torch

from ..diagnostics.errors import check
from ..ir.carry import WIDER
from ..ir.draws import slice_op
from ..ir.operands import shape_of
from ..ir.placement import R
from .rule import Dims, Facts, Groups, Rule, align_dims

aten = torch.ops.aten


def between_floats(facts: Facts) -> Groups:
    """A cast is linear from floating point to floating point only."""
    dtypes = facts.node.args[0].meta["val"].dtype, facts.node.meta["val"].dtype
    return ({0},) if all(t.is_floating_point or t.is_complex for t in dtypes) else ()


def to_integers(node: torch.fx.Node) -> bool:
    """A cast jumps if its result holds no fractions."""
    return not (node.meta["val"].is_floating_point() or node.meta["val"].is_complex())


def pole(node: torch.fx.Node) -> AbstractSet[int]:
    """A power has one at 0, or is undefined below, unless its exponent is a natural number."""
    exponent = node.args[1]
    return set() if isinstance(exponent, (int, float)) and exponent >= 0 and exponent == int(exponent) else {0}


def biased(product: str):
    """A product, written as in ``Rule.dims``, added to a bias that broadcasts against it."""
    (*factors,), (out,) = Rule(product).words

    def align(facts: Facts) -> Dims | None:
        bias = out[len(out) - len(facts.shapes[0]) :]
        return align_dims(facts, [bias, *factors], [out])

    return align


def solve_triangular(facts: Facts) -> Dims | None:
    """With the matrix on the left, the right-hand sides are columns, else rows."""
    outer = [f"d{i}" for i in range(len(facts.results[0]) - 2)]
    sides = ["_", "n"] if facts.argument(5, "left", True) else ["n", "_"]
    return align_dims(facts, [[*outer, "_", "_"], [*outer, *sides]], [[*outer, *sides]])


def trilinear(facts: Facts) -> Dims | None:
    """The product of three operands, each expanded by new dimensions, summed over ``sumdim``."""
    new = [set(facts.argument(3 + i, f"expand{i + 1}")) for i in range(3)]
    gone = facts.argument(6, "sumdim")
    names = [f"d{i}" for i in range(len(facts.shapes[0]) + len(new[0]))]
    words = [[name for i, name in enumerate(names) if i not in extra] for extra in new]
    return align_dims(facts, words, [[name for i, name in enumerate(names) if i not in gone]])


def iota(body, node: torch.fx.Node, args: tuple, kwargs: dict) -> torch.fx.Node:
    """A range starts at the micro-batch's first row."""
    base = body.call(node.target, args, kwargs)
    offset = body.offset(node)
    if offset is None:
        return base
    check(body.placement(node).outer == 1, f"{node.name} is one range in each micro-batch")
    step = body.call(torch.ops.aten.mul.Tensor, (offset, kwargs["step"]))
    total = body.call(torch.ops.aten.add.Tensor, (base, step))
    return body.call(torch.ops.prims.convert_element_type.default, (total, kwargs["dtype"]))


def moments(body, node: torch.fx.Node, args: tuple, kwargs: dict) -> torch.fx.Node:
    """(count, mean, M2), written with operators that every lowering supports."""
    x, dims = args
    pair = body.call(aten.var_mean.correction, (x, dims), {"correction": 0, "keepdim": True})
    variance, mean = body.call(operator.getitem, (pair, 0)), body.call(operator.getitem, (pair, 1))
    source, value = node.args[0], node.meta["val"]
    shape_here = body.shape(source) if body.placement(node) != R else shape_of(source) or ()
    count = reduce(partial(body.number, operator.mul), [body.size(shape_here[d]) for d in dims])
    shape = body.sizes((1, *body.shape(node)[1:]))
    counts = body.call(aten.full.default, (shape, count), {"dtype": value.dtype, "device": value.device})
    m2 = body.call(aten.mul.Tensor, (variance, count))
    rows = [counts, *(body.call(aten.view.default, (v, shape)) for v in (mean, m2))]
    return body.call(aten.cat.default, (rows, 0))


def not_cast(body, node: torch.fx.Node, args: tuple, kwargs: dict) -> torch.fx.Node | None:
    """The operand of a cast to half precision; None if that is not wider floating point."""
    source = node.args[0].meta["val"].dtype
    return args[0] if source.is_floating_point and source not in WIDER else None


def wide_sum(body, node: torch.fx.Node, args: tuple, kwargs: dict) -> torch.fx.Node:
    """A half-precision sum in the dtype in which its kernel accumulates."""
    return body.call(node.target, args, kwargs | {"dtype": WIDER[node.meta["val"].dtype]}, like=node)


def random(body, node: torch.fx.Node, args: tuple, kwargs: dict) -> torch.fx.Node:
    """The micro-batch's slice of the full batch's draw."""
    offset = body.offset(node)
    if offset is None:
        return body.call(node.target, args, kwargs)
    return slice_op(body, node, args, kwargs, offset)
