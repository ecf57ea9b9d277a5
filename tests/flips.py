"""Flips of rows that are right all the same: each with its reason, and a check that the reason holds on a sample."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch.fx import Node

from accumcompile.ir.operands import operands
from accumcompile.oracle.capture import capture
from accumcompile.oracle.check import alignment_of
from accumcompile.oracle.flips import flips
from accumcompile.oracle.rules import as_sample, registered
from accumcompile.oracle.samples import together
from accumcompile.rules.table import RULES

aten = torch.ops.aten
SPLIT = "a whole dimension split"
MOVE = "moves data only"


class Case:
    """One call of an operator, and the name of a flip of its row."""

    def __init__(self, op: Any, flip: str, sample: tuple):
        self.op, self.flip, self.call = op, flip, as_sample(op, sample)
        self.static = capture(self.call.run, self.call.tensors, (None,) * len(self.call.tensors), decompose=False)
        self.node = next(n for n in self.static.gm.graph.nodes if n.target is op)
        self.operands = operands(self.node)

    @property
    def group(self) -> list[int]:
        """The operands in which the flip claims linearity."""
        return ast.literal_eval(self.flip.removeprefix("linear in ")) if self.flip.startswith("linear") else [0]

    def position(self, node: Node) -> int | None:
        """Which of the call's tensors an operand is."""
        inputs = self.static.gm.graph.find_nodes(op="placeholder")
        return inputs.index(node) if node in inputs else None

    def run(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        result = self.call.run(*tensors)
        return [r for r in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(r, torch.Tensor)]


def mask(case: Case) -> bool:
    """One of the operands holds booleans, and no unfinished sum does."""
    given = [case.operands[i].node for i in case.group]
    return any(n is not None and n.meta["val"].dtype is torch.bool for n in given)


def absent(case: Case) -> bool:
    """The operand is not there."""
    return all(case.operands[i].absent for i in case.group)


def shape(case: Case) -> bool:
    """Operands in which the row itself is not linear give their shapes only."""
    linear = set().union(*alignment_of(case.node).linear)
    others = {case.position(case.operands[i].node) for i in case.group if i not in linear}
    redrawn = [torch.randn_like(x) if i in others else x for i, x in enumerate(case.call.tensors)]
    pairs = zip(case.run(*case.call.tensors), case.run(*redrawn), strict=True)
    return bool(others) and all(torch.equal(a, b) for a, b in pairs)


def moves(case: Case) -> bool:
    """Every element of a result is one of an operand."""
    given = torch.cat([x.flatten() for x in case.call.tensors])
    return all(torch.isin(r, given).all() for r in case.run(*case.call.tensors))


def apart(case: Case) -> bool:
    """The distances are given: each feature's gradient follows from that feature alone."""
    grad, x, y, far = case.call.tensors
    parts = [case.run(grad, x[..., d : d + 1], y[..., d : d + 1], far)[0] for d in range(x.shape[-1])]
    return torch.allclose(torch.cat(parts, -1), case.run(grad, x, y, far)[0])


def identity(case: Case) -> bool:
    """Sizes inside and outside line up only where they are one, and there the operator changes nothing."""
    grad, x = case.call.tensors
    return grad.shape != x.shape or torch.allclose(case.run(grad, x)[0], grad)


def constant(case: Case) -> bool:
    """The size outside is a Python int, which a size inside that is split never equals."""
    return "SymInt" not in str(case.op._schema)


def coordinates(case: Case) -> bool:
    """The dimension is also that of the coordinates, which torch traces with a fixed size."""
    grid = max(i for i, x in enumerate(case.call.tensors) if x.shape[-1] == x.dim() - 2)
    return not traceable(case, tuple(x.dim() - 1 if i == grid else None for i, x in enumerate(case.call.tensors)))


def untraced(case: Case) -> bool:
    """Torch cannot trace the operator with a symbolic size in these places: no captured graph holds it."""
    return not any(traceable(case, choice) for choice in together(case.call.tensors))


def contracted(case: Case) -> bool:
    """A result beside lacks the dimension, and the row is linear in nothing: it is never split."""
    wrong = dict(flips(RULES[case.op], [alignment_of(case.node)]))[case.flip]
    with registered(case.op, wrong):
        found = alignment_of(case.node)
    lacking = [dims for dims in found.results if not any("z" in dim for dim in dims)]
    return bool(lacking) and not any(found.linear) and found.reduce == "sum"


def traceable(case: Case, choice: tuple) -> bool:
    try:
        return capture(case.call.run, case.call.tensors, choice, decompose=False).batch is not None
    except Exception:  # whatever torch raises where it does not know a symbolic size
        return False


POOLS = [aten.avg_pool2d_backward, aten.avg_pool3d_backward]
ADAPTIVE = [aten._adaptive_avg_pool2d_backward, aten._adaptive_avg_pool3d_backward]
PADS = [getattr(aten, f"{kind}_pad{d}d_backward") for kind in ("reflection", "replication") for d in (1, 2, 3)]
MAXIMA = [aten.adaptive_max_pool2d, aten.adaptive_max_pool3d, aten.fractional_max_pool2d, aten.fractional_max_pool3d]
RESIZED = [
    *(aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward, aten._upsample_bicubic2d_aa_backward),
    *(aten.upsample_linear1d_backward, aten.upsample_trilinear3d_backward),
    *(aten.upsample_nearest1d_backward, aten.upsample_nearest3d_backward),
]
WITH_INFO = [
    *(aten.linalg_inv_ex, aten.linalg_lu_factor_ex, aten.linalg_cholesky_ex, aten.linalg_ldl_factor_ex),
    aten._linalg_solve_ex,
]

# (row, flip) -> why it is right all the same
EQUIVALENT = {
    **{(aten.where.self, f"linear in {group}"): mask for group in ([0], [0, 1, 2])},
    **{(aten.masked_scatter.default, f"linear in {group}"): mask for group in ([1], [0, 1, 2])},
    **{(aten._unsafe_masked_index.default, f"linear in {group}"): mask for group in ([1], [0, 1, 2, 3])},
    (aten._unsafe_masked_index_put_accumulate.default, "linear in [0, 1, 2, 3, 4]"): mask,
    (aten._unsafe_masked_index.default, "linear in [2]"): absent,
    (aten.searchsorted.Tensor, "linear in [2]"): absent,
    (aten.copy.default, "linear in [0, 1]"): shape,
    **{(op.default, "linear in [0, 1]"): shape for op in (*POOLS, *ADAPTIVE, *PADS)},
    **{
        (op, MOVE): moves
        for op in (
            *(aten.as_strided.default, aten.as_strided_scatter.default, aten.unbind.int, aten.unfold.default),
            *(aten.slice_scatter.default, aten.select_scatter.default, aten.diagonal_scatter.default),
            *(aten.diagonal.default, aten.copy.default),
        )
    },
    (aten._cdist_backward.default, SPLIT): apart,
    **{(op.default, SPLIT): identity for op in ADAPTIVE},
    **{(op.default, SPLIT): constant for op in MAXIMA},
    **{
        (op.default, SPLIT): constant
        for op in (aten.fractional_max_pool2d_backward, aten.fractional_max_pool3d_backward)
    },
    (aten.grid_sampler_3d_backward.default, SPLIT): coordinates,
    **{(op.default, flip): untraced for op in RESIZED for flip in ("n and c exchanged", SPLIT)},
    (aten.geqrf.default, SPLIT): untraced,
    **{(op.default, SPLIT): contracted for op in WITH_INFO},
}
