"""The table of rules, one line per operator. A new operator needs one line here and one row in the tests.

Each line states two facts: how dimensions line up, and in which operands the operator is jointly linear. An operator
with neither a line nor a pointwise tag takes its operands whole, which costs memory but never correctness.
"""

from __future__ import annotations

from typing import Any

import torch

from ..ir.operands import is_view
from ..ir.ops import moments
from ..ir.torch_api import OpOverload
from . import indexing, local, reductions, slices, views
from .optional import OPTIONAL, overload
from .rule import Rule

aten, prims = torch.ops.aten, torch.ops.prims

# shared by several operators
POINTWISE = Rule("... -> ...")
JUMP = Rule("... -> ...", discontinuous=True)
LINEAR = Rule("... -> ...", linear=({0},))
JOINT = Rule("... -> ...", linear=({0, 1},))
POLE = Rule("... -> ...", discontinuous=True)  # or the edge of a domain: beyond it, NaN
CHOICE = Rule("... -> ...", picks=True)
CAST = Rule("... -> ...", linear=local.between_floats, unrounded=local.not_cast, discontinuous=local.to_integers)
MOVED = Rule("... -> ...", moves=True)
REVERSED = Rule(align=views.along_many(1), moves=True)
MIXED = Rule(align=views.along(1))
SORTED = Rule(align=views.along(1), discontinuous=True, picks=True)
FOURIER = Rule(align=views.along_many(1, "dim"), linear=({0},))
MOST = Rule(align=reductions.over(), reduce="max", picks=True)
REDUCED = Rule(align=reductions.whole_over())
SELECTED = Rule(align=reductions.whole_over(), discontinuous=True, picks=True)
VARIANCE = Rule(align=reductions.whole_over(keepdim=9))
LOOKUP = Rule(align=indexing.index, linear=({0},), picks=True)
PUT = Rule(align=indexing.index_put, linear=indexing.both_ends)
LINE = Rule("... _ -> ... _", linear=({0},))
IMAGE = Rule("... _ _ -> ... _ _", linear=({0},))
VOLUME = Rule("... _ _ _ -> ... _ _ _", linear=({0},))
IMAGE_MAXIMA = Rule("... _ _ -> ... _ _, ... _ _", discontinuous=True, picks=True)
VOLUME_MAXIMA = Rule("... _ _ _ -> ... _ _ _, ... _ _ _", discontinuous=True, picks=True)
RESIZE_2D = Rule("n c _ _ -> n c _ _", linear=({0},))
RESIZE_1D_BACKWARD = Rule("n c _ -> n c _", linear=({0},), shape_arg=2)
RESIZE_2D_BACKWARD = Rule("n c _ _ -> n c _ _", linear=({0},), shape_arg=2)
RESIZE_3D_BACKWARD = Rule("n c _ _ _ -> n c _ _ _", linear=({0},), shape_arg=2)
SOLVED = Rule("... _ _, ... _, ... _ _ -> ... _ _", linear=({2},))

RULES: dict[OpOverload, Rule] = {
    # pointwise: operators that torch tags as such default to POINTWISE; listed are those that are linear or jump
    aten.add.Tensor: JOINT,
    aten.sub.Tensor: JOINT,
    aten.mul.Tensor: Rule("... -> ...", linear=({0}, {1})),
    aten.mul.Scalar: LINEAR,
    aten.div.Tensor: Rule("... -> ...", linear=({0},), discontinuous={1}),
    aten.div.Scalar: LINEAR,
    aten.neg.default: LINEAR,
    aten.where.self: Rule("... -> ...", linear=({1, 2},), picks=True),
    aten.clone.default: MOVED,
    aten.alias.default: MOVED,
    aten.detach.default: MOVED,
    aten.lift_fresh_copy.default: MOVED,
    prims.convert_element_type.default: CAST,
    aten._to_copy.default: CAST,
    aten.eq.Tensor: JUMP,
    aten.ne.Tensor: JUMP,
    aten.ge.Tensor: JUMP,
    aten.gt.Tensor: JUMP,
    aten.le.Tensor: JUMP,
    aten.lt.Tensor: JUMP,
    aten.eq.Scalar: JUMP,
    aten.ne.Scalar: JUMP,
    aten.ge.Scalar: JUMP,
    aten.gt.Scalar: JUMP,
    aten.le.Scalar: JUMP,
    aten.lt.Scalar: JUMP,
    aten.floor.default: JUMP,
    aten.ceil.default: JUMP,
    aten.round.default: JUMP,
    aten.trunc.default: JUMP,
    aten.sign.default: JUMP,
    aten.heaviside.default: JUMP,
    aten.remainder.Tensor: JUMP,
    aten.remainder.Scalar: JUMP,
    aten.remainder.Scalar_Tensor: JUMP,
    aten.fmod.Tensor: JUMP,
    aten.fmod.Scalar: JUMP,
    aten.div.Tensor_mode: JUMP,
    aten.div.Scalar_mode: JUMP,
    aten.logical_and.default: JUMP,
    aten.logical_not.default: JUMP,
    aten.logical_or.default: JUMP,
    aten.logical_xor.default: JUMP,
    aten.signbit.default: JUMP,
    aten.copysign.Tensor: JUMP,
    aten.copysign.Scalar: JUMP,
    aten.atan2.default: JUMP,
    aten.sqrt.default: POLE,
    aten.rsqrt.default: POLE,
    aten.reciprocal.default: POLE,
    aten.log.default: POLE,
    aten.log2.default: POLE,
    aten.log10.default: POLE,
    aten.log1p.default: POLE,
    aten.acos.default: POLE,
    aten.asin.default: POLE,
    aten.acosh.default: POLE,
    aten.atanh.default: POLE,
    aten.erfinv.default: POLE,
    aten.lgamma.default: POLE,
    aten.digamma.default: POLE,
    aten.polygamma.default: POLE,
    aten.pow.Tensor_Scalar: Rule("... -> ...", discontinuous=local.pole),
    aten.pow.Tensor_Tensor: Rule("... -> ...", discontinuous={0}),
    aten.addcdiv.default: Rule("... -> ...", discontinuous={2}),
    aten.maximum.default: CHOICE,
    aten.minimum.default: CHOICE,
    aten.clamp_min.default: CHOICE,
    aten.clamp_min.Tensor: CHOICE,
    aten.clamp_max.default: CHOICE,
    aten.clamp_max.Tensor: CHOICE,
    aten.relu.default: CHOICE,
    aten.ldexp.Tensor: LINEAR,
    aten.frexp.Tensor: Rule("... -> ..., ...", discontinuous=True),
    aten.copy.default: Rule("..., ... -> ...", linear=({1},)),
    aten.complex.default: JOINT,
    aten.polar.default: LINEAR,
    aten._conj.default: LINEAR,
    aten.view_as_real.default: Rule("... -> ... _", linear=({0},)),
    aten.view_as_complex.default: Rule("... _ -> ...", linear=({0},)),
    # data movement
    aten.view.default: Rule(align=views.view, moves=True, shape_arg=1),
    aten.expand.default: Rule(align=views.expand, moves=True, shape_arg=1),
    aten.permute.default: Rule(align=views.permute, moves=True),
    aten.slice.Tensor: Rule(align=slices.slice_, moves=True, local=slices.local_slice),
    aten.select.int: Rule(align=views.select, moves=True),
    aten.cat.default: Rule(align=views.cat, moves=True),
    aten.flip.default: REVERSED,
    aten.roll.default: Rule(align=views.along_many(2), moves=True),
    prims.rev.default: REVERSED,
    aten.as_strided.default: Rule("_... -> _...", linear=({0},)),
    aten.as_strided_scatter.default: Rule("_..., _... -> _...", linear=({0, 1},)),
    aten.masked_scatter.default: Rule("_... -> _...", linear=({0, 2},)),
    aten.repeat.default: Rule(align=views.repeat, moves=True),
    aten.unbind.int: Rule(align=views.unbind, linear=({0},)),
    aten.constant_pad_nd.default: Rule(align=views.pad, linear=views.padded_by_zero, picks=True),
    aten.slice_scatter.default: Rule(align=slices.slice_scatter, linear=({0, 1},), local=slices.local_slice_scatter),
    aten.select_scatter.default: Rule(align=indexing.select_scatter, linear=({0, 1},)),
    aten.diagonal.default: Rule(align=views.diagonal, linear=({0},)),
    aten.diagonal_scatter.default: Rule(align=views.diagonal_scatter, linear=({0, 1},)),
    aten.unfold.default: Rule(align=views.unfold, linear=({0},)),
    # factories: free at any placement
    aten.full.default: Rule(align=views.factory, factory=True, shape_arg=0, fill=1),
    aten.empty.memory_format: Rule(align=views.factory, factory=True, shape_arg=0),
    aten.scalar_tensor.default: Rule(align=views.factory, factory=True, fill=0),
    prims.iota.default: Rule(align=views.factory, factory=True, shape_arg=0, local=local.iota),
    prims.inductor_random.default: Rule(align=views.factory, factory=True, shape_arg=0, local=local.random),
    prims.inductor_randint.default: Rule(align=views.factory, factory=True, shape_arg=2, local=local.random),
    # reductions
    aten.sum.default: Rule("... ->", linear=({0},), unrounded=local.wide_sum),
    aten.sum.dim_IntList: Rule(align=reductions.over(), linear=({0},), unrounded=local.wide_sum),
    aten.amax.default: MOST,
    aten.amin.default: Rule(align=reductions.over(), reduce="min", picks=True),
    aten.max.default: Rule("... ->", reduce="max", picks=True),
    aten.min.default: Rule("... ->", reduce="min", picks=True),
    aten.any.default: Rule("... ->", reduce="max"),
    aten.any.dims: MOST,
    aten.all.default: Rule("... ->", reduce="min"),
    aten.mean.dim: Rule(align=reductions.whole_over(), linear=({0},)),
    aten.prod.dim_int: REDUCED,
    aten.any.dim: REDUCED,
    aten.all.dim: REDUCED,
    aten.max.dim: SELECTED,
    aten.min.dim: SELECTED,
    aten.median.dim: SELECTED,
    aten.nanmedian.dim: SELECTED,
    aten.kthvalue.default: Rule(align=reductions.whole_over(2, keepdim=3, default=-1), discontinuous=True, picks=True),
    aten.mode.default: Rule(align=reductions.whole_over(default=-1), discontinuous=True, picks=True),
    aten.argmax.default: SELECTED,
    aten.argmin.default: SELECTED,
    aten.var.correction: VARIANCE,
    aten.var_mean.correction: VARIANCE,
    moments: Rule(align=reductions.moments, reduce="moments", local=local.moments),
    # along one dimension
    aten.cumsum.default: Rule(align=views.along(1), linear=({0},)),
    aten.cumprod.default: MIXED,
    aten.logcumsumexp.default: MIXED,
    aten._softmax.default: MIXED,
    aten._log_softmax.default: MIXED,
    aten.sort.default: SORTED,
    aten.sort.stable: Rule(align=views.along(2), discontinuous=True, picks=True),
    aten.topk.default: Rule(align=views.along(2), discontinuous=True, picks=True),
    aten.cummax.default: SORTED,
    aten.cummin.default: SORTED,
    aten.glu.default: MIXED,
    aten._fft_c2c.default: FOURIER,
    aten._fft_r2c.default: FOURIER,
    aten._fft_c2r.default: FOURIER,
    # products
    aten.mm.default: Rule("m k, k n -> m n", linear=({0}, {1})),
    aten.bmm.default: Rule("b m k, b k n -> b m n", linear=({0}, {1})),
    aten.addmm.default: Rule(align=local.biased("m k, k n -> m n"), linear=({0, 1}, {0, 2})),
    aten.baddbmm.default: Rule(align=local.biased("b m k, b k n -> b m n"), linear=({0, 1}, {0, 2})),
    aten.addbmm.default: Rule(align=local.biased("b m k, b k n -> m n"), linear=({0, 1}, {0, 2})),
    aten._trilinear.default: Rule(align=local.trilinear, linear=({0}, {1}, {2})),
    aten._cdist_forward.default: Rule("... p _, ... r _ -> ... p r"),
    aten._cdist_backward.default: Rule("... p r, ... p _, ... r _, ... p r -> ... p _", linear=({0},)),
    aten._weight_norm_interface_backward.default: Rule("_... -> _..., _...", linear=({0},)),
    aten.convolution.default: Rule("n _..., _..., _ -> n _...", linear=({0, 2}, {1, 2})),
    aten.convolution_backward.default: Rule("n _..., n _..., _... -> n _..., _..., _...", linear=({0},)),
    # indexing
    aten.embedding.default: Rule("v d, ... -> ... d", linear=({0},), whole="v", picks=True),
    aten.gather.default: Rule(align=indexing.gather, linear=({0},), picks=True),
    aten.index.Tensor: LOOKUP,
    aten.index_select.default: Rule(align=indexing.index_select, linear=({0},), picks=True),
    aten.index_put.default: PUT,
    aten._unsafe_index_put.default: PUT,
    aten._unsafe_index.Tensor: LOOKUP,
    aten._unsafe_masked_index.default: Rule(align=indexing.masked_index, linear=indexing.masked_by_zero, picks=True),
    aten._unsafe_masked_index_put_accumulate.default: Rule(align=indexing.masked_index_put, linear=indexing.both_ends),
    aten.scatter.value: Rule(align=indexing.scatter("self", "index")),
    aten.scatter.src: Rule(align=indexing.scatter("self", "index", "src"), linear=({0, 2},), picks=True),
    aten.scatter_add.default: Rule(align=indexing.scatter("self", "index", "src"), linear=({0, 2},)),
    aten.scatter.reduce: Rule(align=indexing.scatter("self", "index", "src")),
    aten.scatter.value_reduce: Rule(align=indexing.scatter("self", "index")),
    aten.scatter_reduce.two: Rule(align=indexing.scatter("self", "index", "src"), linear=indexing.where_added),
    aten.index_reduce.default: Rule(align=indexing.beside(1)),
    aten.searchsorted.Tensor: Rule(align=indexing.searchsorted, discontinuous=True),
    aten.bucketize.Tensor: Rule("..., _ -> ...", discontinuous=True),
    # images
    aten.avg_pool2d.default: IMAGE,
    aten.avg_pool2d_backward.default: IMAGE,
    aten._adaptive_avg_pool2d.default: IMAGE,
    aten._adaptive_avg_pool2d_backward.default: IMAGE,
    aten.max_pool2d_with_indices.default: IMAGE_MAXIMA,
    aten.max_pool2d_with_indices_backward.default: IMAGE,
    aten.upsample_bilinear2d.vec: RESIZE_2D,
    aten.upsample_bilinear2d_backward.default: RESIZE_2D_BACKWARD,
    aten.upsample_nearest2d_backward.default: RESIZE_2D_BACKWARD,
    aten.grid_sampler_2d.default: Rule("n c _ _, n h w _ -> n c h w", linear=({0},)),
    aten.grid_sampler_3d.default: Rule("n c _ _ _, n d h w _ -> n c d h w", linear=({0},)),
    aten.grid_sampler_2d_backward.default: Rule("n c h w, n c _ _, n h w _ -> n c _ _, n h w _", linear=({0},)),
    aten.grid_sampler_3d_backward.default: Rule(
        "n c d h w, n c _ _ _, n d h w _ -> n c _ _ _, n d h w _", linear=({0},)
    ),
    aten.avg_pool3d.default: VOLUME,
    aten.avg_pool3d_backward.default: VOLUME,
    aten._adaptive_avg_pool3d.default: VOLUME,
    aten._adaptive_avg_pool3d_backward.default: VOLUME,
    aten.adaptive_max_pool2d.default: IMAGE_MAXIMA,
    aten.adaptive_max_pool2d_backward.default: IMAGE,
    aten.adaptive_max_pool3d.default: VOLUME_MAXIMA,
    aten.adaptive_max_pool3d_backward.default: VOLUME,
    aten.max_pool3d_with_indices.default: VOLUME_MAXIMA,
    aten.max_pool3d_with_indices_backward.default: VOLUME,
    aten.fractional_max_pool2d.default: Rule("n _ _ _, n _ _ -> n _ _ _, n _ _ _", discontinuous=True, picks=True),
    aten.fractional_max_pool2d_backward.default: IMAGE,
    aten.fractional_max_pool3d.default: Rule(
        "n _ _ _ _, n _ _ -> n _ _ _ _, n _ _ _ _", discontinuous=True, picks=True
    ),
    aten.fractional_max_pool3d_backward.default: VOLUME,
    aten.reflection_pad1d_backward.default: LINE,
    aten.reflection_pad2d_backward.default: IMAGE,
    aten.reflection_pad3d_backward.default: VOLUME,
    aten.replication_pad1d_backward.default: LINE,
    aten.replication_pad2d_backward.default: IMAGE,
    aten.replication_pad3d_backward.default: VOLUME,
    aten._upsample_bilinear2d_aa.default: RESIZE_2D,
    aten._upsample_bilinear2d_aa_backward.default: RESIZE_2D_BACKWARD,
    aten._upsample_bicubic2d_aa.default: RESIZE_2D,
    aten._upsample_bicubic2d_aa_backward.default: RESIZE_2D_BACKWARD,
    aten.upsample_bicubic2d_backward.default: RESIZE_2D_BACKWARD,
    aten.upsample_linear1d_backward.default: RESIZE_1D_BACKWARD,
    aten.upsample_nearest1d_backward.default: RESIZE_1D_BACKWARD,
    aten.upsample_trilinear3d_backward.default: RESIZE_3D_BACKWARD,
    aten.upsample_nearest3d_backward.default: RESIZE_3D_BACKWARD,
    # matrices, batched over the leading dimensions
    aten.linalg_solve_triangular.default: Rule(align=local.solve_triangular, linear=({1},)),
    aten.triangular_solve.default: Rule("... _ _ -> ... _ _, ... _ _"),
    aten.cholesky_inverse.default: Rule("... _ _ -> ... _ _"),
    aten.cholesky_solve.default: Rule("... _ n, ... _ _ -> ... _ n", linear=({0},)),
    aten.linalg_cholesky_ex.default: Rule("... _ _ -> ... _ _, ..."),
    aten.linalg_inv_ex.default: Rule("... _ _ -> ... _ _, ..."),
    aten.linalg_pinv.atol_rtol_tensor: Rule("... _ _, ..., ... -> ... _ _"),
    aten._linalg_svd.default: Rule("... _ _ -> ... _ _, ... _, ... _ _"),
    aten._linalg_eigh.default: Rule("... _ _ -> ... _, ... _ _"),
    aten.linalg_eig.default: Rule("... _ _ -> ... _, ... _ _"),
    aten.linalg_qr.default: Rule("... _ _ -> ... _ _, ... _ _"),
    aten.geqrf.default: Rule("... _ _ -> ... _ _, ... _"),
    aten.ormqr.default: SOLVED,
    aten.linalg_householder_product.default: Rule("... _ _, ... _ -> ... _ _"),
    aten._linalg_det.default: Rule("... _ _ -> ..., ... _ _, ... _"),
    aten._linalg_slogdet.default: Rule("... _ _ -> ..., ..., ... _ _, ... _"),
    aten._linalg_solve_ex.default: Rule("... _ _ -> ... _ _, ... _ _, ... _, ..."),
    aten.linalg_lu.default: Rule("... _ _ -> ... _ _, ... _ _, ... _ _"),
    aten.linalg_lu_factor_ex.default: Rule("... _ _ -> ... _ _, ... _, ..."),
    aten.linalg_lu_solve.default: SOLVED,
    aten.lu_unpack.default: Rule("... _ _, ... _ -> ... _ _, ... _ _, ... _ _"),
    aten.linalg_ldl_factor_ex.default: Rule("... _ _ -> ... _ _, ... _, ..."),
    aten.linalg_ldl_solve.default: SOLVED,
    # attention
    aten._scaled_dot_product_flash_attention_for_cpu.default: Rule("... _ _ -> ... _ _, ... _"),
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: Rule(
        "... _ _, ... _ _, ... _ _, ... _ _, ... _ _, ... _, ... _ _ -> ... _ _, ... _ _, ... _ _", linear=({0},)
    ),
}

RULES |= OPTIONAL


def rule_of(op: Any) -> Rule | None:
    """The rule of an operator; None if it takes its operands whole."""
    rule = RULES.get(op)
    if rule is not None or not isinstance(op, OpOverload):
        return rule
    return POINTWISE if torch.Tag.pointwise in op.tags else None


def is_constant(node: torch.fx.Node) -> bool:
    """Whether a node fills a tensor with one number, so that it can be recreated in any shape for free."""
    rule = rule_of(node.target)
    return rule is not None and rule.fill is not None


def jumps_in(node: torch.fx.Node) -> set[torch.fx.Node]:
    """The operands in which a node is discontinuous."""
    rule = rule_of(node.target)
    return rule.jumps_in(node) if rule is not None else set()


def keeps_elements(node: torch.fx.Node) -> bool:
    """Whether a node's result holds elements of its operands: a view, a move, a selection."""
    rule = rule_of(node.target)
    return is_view(node) or (rule is not None and (rule.moves or rule.picks))


def is_impure(node: torch.fx.Node) -> bool:
    """Whether a node must run exactly once, because it draws random numbers or mutates something."""
    op = node.target
    if not isinstance(op, OpOverload):
        return False
    return op._schema.is_mutable or op in SEEDS or _draws(node)


def _draws(node: torch.fx.Node) -> bool:
    """Whether a node draws random numbers; attention (forward and backward) does so only with dropout."""
    for i, argument in enumerate(node.target._schema.arguments):
        if argument.name == "dropout_p":
            given = node.args[i] if i < len(node.args) else node.kwargs.get("dropout_p", argument.default_value)
            return given != 0
    return torch.Tag.nondeterministic_seeded in node.target.tags


SEEDS = frozenset(filter(None, map(overload, ("prims.inductor_seed", "prims.inductor_seeds"))))
