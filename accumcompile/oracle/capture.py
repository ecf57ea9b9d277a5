"""A function of tensors as the compiler sees it: an ATen graph in which chosen dimensions are the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.graph import CodeGen

from ..ir.binding import traced
from ..ir.divisibility import divisible
from ..ir.operands import comes_from_data, input_sizes
from ..ir.placement import Size
from ..ir.sizes import Batch, expression
from ..ir.torch_api import decompositions, pytree

Tensors = Sequence[torch.Tensor]
Choice = tuple[int | tuple[int, ...] | None, ...]  # for each tensor, its dimensions of batch size


@dataclass
class Captured:
    """A graph whose inputs are ``tensors``, followed by one tangent for each differentiable output."""

    gm: GraphModule
    tensors: list[torch.Tensor]
    batch: Batch | None  # None: no dimension was chosen, or its size turned out to be fixed
    size: int = 0  # the batch's, in ``tensors``

    @property
    def outputs(self) -> list[Any]:
        """Fake values of the results."""
        return [o.meta["val"] for o in self.gm.graph.output_node().args[0] if o is not None]


def capture(fn: Callable, tensors: Tensors, choice: Choice, joint: bool = False, decompose: bool = True) -> Captured:
    """Trace ``fn(*tensors)`` (``joint``: and its backward) with the chosen dimensions as one symbolic size."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [_fake(mode, x, dim, joint) for x, dim in zip(tensors, choice, strict=True)]
    table = decompositions() if decompose else {}
    with mode, torch.enable_grad():
        gm: Any = aot_export_joint_simple(_flat(fn), tuple(fakes), trace_joint=joint, decompositions=table)
    gm.graph._codegen = CodeGen()
    gm.graph.output_node().args = (pytree.tree_leaves(gm.graph.output_node().args[0], is_leaf=lambda v: v is None),)
    gm.recompile()
    given = list(tensors)
    for node in gm.graph.find_nodes(op="placeholder")[len(given) :]:
        given.append(_tangent(node.meta["val"]))
    return Captured(gm, given, *_batch(gm, given))


def chosen(dims: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The dimensions of one tensor that are the batch."""
    return () if dims is None else (dims,) if isinstance(dims, int) else dims


def _fake(mode: FakeTensorMode, x: torch.Tensor, dim: Any, joint: bool) -> torch.Tensor:
    dims = [DimDynamic.DYNAMIC if d in chosen(dim) else DimDynamic.STATIC for d in range(x.dim())]
    source = x.detach().requires_grad_(joint and differentiable(x))
    return mode.from_tensor(source, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dims))


def differentiable(x: Any) -> bool:
    """Whether a value can have a gradient."""
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())


def _flat(fn: Callable) -> Callable:
    """``fn`` with its results as a flat tuple, none of them an input or a view of one."""

    def run(*tensors: torch.Tensor) -> tuple:
        return tuple(v.clone() for v in pytree.tree_leaves(fn(*tensors)) if isinstance(v, torch.Tensor))

    return run


def _tangent(fake: torch.Tensor) -> torch.Tensor:
    if any(comes_from_data(s) for s in fake.shape):
        raise ValueError("the size of a result depends on data")
    shape = [traced(s) for s in fake.shape]
    return torch.randn(shape, dtype=fake.dtype)


def _batch(gm: GraphModule, tensors: Tensors) -> tuple[Batch | None, int]:
    """The batch that is left after tracing, and its size."""
    sizes_of: dict[Any, int] = {}
    for node, x in zip(gm.graph.find_nodes(op="placeholder"), tensors, strict=True):
        for size, actual in zip(node.meta["val"].shape, x.shape, strict=True):
            expr = expression(size)
            if not isinstance(expr, int) and expr.is_Symbol:
                sizes_of[expr] = actual
    if not sizes_of:
        return None, 0
    sizes: list[Size] = [
        expression(s)
        for n in gm.graph.nodes
        for v in pytree.tree_leaves(n.meta.get("val"))
        for s in (v.shape if isinstance(v, torch.Tensor) else [v] if isinstance(v, torch.SymInt) else [])
    ]
    of_batch = (s for s in input_sizes(gm) if s.node.expr in sizes_of)
    return Batch.of(sizes_of, sizes, divisible(of_batch)), next(iter(sizes_of.values()))
