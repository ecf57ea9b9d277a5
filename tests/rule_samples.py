"""Samples for every row of the table: calls on which each claim of the row is tried.

A row is an operator and its calls. A call is a tuple of arguments, named ones last in a dict; a function in
front of them stands for the operator where an argument holds a size.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torch._inductor.inductor_prims

from accumcompile.rules.optional import overload
from accumcompile.rules.table import RULES

aten, prims = torch.ops.aten, torch.ops.prims
_draw = torch.Generator().manual_seed(0)


def f(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, dtype=dtype, generator=_draw)


def n(high: int, *shape: int) -> torch.Tensor:
    """Whole numbers below ``high``."""
    return torch.randint(high, shape, generator=_draw)


def b(*shape: int) -> torch.Tensor:
    return n(2, *shape).bool()


def c(*shape: int) -> torch.Tensor:
    return f(*shape, dtype=torch.complex128)


def spd(*shape: int) -> torch.Tensor:
    """Symmetric positive definite matrices."""
    x = f(*shape)
    return x @ x.mT + torch.eye(shape[-1], dtype=x.dtype)


def upper(*shape: int) -> torch.Tensor:
    """Well-conditioned triangular matrices."""
    return (f(*shape) + 3 * torch.eye(shape[-1], dtype=torch.float64)).triu()


def laid_out(op, x: torch.Tensor):
    """``op`` of a copy of ``x`` that is contiguous."""
    return op(x.clone(memory_format=torch.contiguous_format))


def sized(op, *tail):
    """``op(x, [x's first size, *tail])``."""
    return lambda x: op(x, [x.shape[0], *tail])


def same_size(op, x: torch.Tensor):
    """A resizing ``op`` to the size that ``x`` has: the one case in which sizes inside and outside line up."""
    return lambda x, *rest: op(x, x.shape[2:], *rest), x


pair = [(f(4, 3), f(4, 3)), (f(4, 3), f(3)), (f(4, 1), f(1, 3)), (f(4, 4), f(4, 4))]
one = [(f(4, 3),), (f(5),), (f(3, 4, 2),)]
truths = 2 * (torch.arange(12).reshape(4, 3) % 2).double()
others = 2 * (torch.arange(12).reshape(4, 3) % 3 > 0).double()
scalar = [(f(4, 3), -0.5)]
positive = [(f(4, 3).abs(),), (f(5).abs(),)]
matrices = [(f(5, 3, 3),), (f(2, 4, 3, 3),)]
image, volume = f(4, 3, 6, 6), f(3, 2, 4, 4, 4)
q = f(4, 2, 5, 8)
flash = aten._scaled_dot_product_flash_attention_for_cpu.default(q, q, q)
mask = f(4, 2, 5, 5)
masked = aten._scaled_dot_product_flash_attention_for_cpu.default(q, q, q, attn_mask=mask)
pooled = aten.max_pool2d_with_indices.default(image, [2, 2])
same_pooled = aten.max_pool2d_with_indices.default(image, [3, 3], [1, 1], [1, 1])
same_pooled3 = aten.max_pool3d_with_indices.default(volume, [3] * 3, [1] * 3, [1] * 3)
adaptive = aten.adaptive_max_pool2d.default(image, [2, 2])
adaptive3 = aten.adaptive_max_pool3d.default(volume, [2, 2, 2])
pooled3 = aten.max_pool3d_with_indices.default(volume, [2, 2, 2])
fraction = aten.fractional_max_pool2d.default(
    image, [2, 2], [3, 3], torch.rand(4, 3, 2, dtype=torch.float64, generator=_draw)
)
fraction3 = aten.fractional_max_pool3d.default(
    volume, [2, 2, 2], [2, 2, 2], torch.rand(3, 2, 3, dtype=torch.float64, generator=_draw)
)
lu, pivots, _ = torch.linalg.lu_factor_ex(spd(4, 3, 3))
ld, swaps, _ = torch.linalg.ldl_factor_ex(spd(4, 3, 3))
householder, square = torch.geqrf(f(4, 5, 3)), torch.geqrf(f(4, 3, 3))

SAMPLES: dict = {
    # pointwise
    **dict.fromkeys([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor], pair),
    **dict.fromkeys([aten.mul.Scalar, aten.div.Scalar], scalar),
    **{
        key: [(n(3, 4, 3).double(), n(3, 4, 3).double())]
        for key in [getattr(aten, o).Tensor for o in ("eq", "ne", "ge", "gt", "le", "lt")]
    },
    **{
        key: [(n(3, 4, 3).double(), 1)]
        for key in [getattr(aten, o).Scalar for o in ("eq", "ne", "ge", "gt", "le", "lt")]
    },
    **dict.fromkeys([getattr(aten, o).default for o in ("neg", "floor", "ceil", "round", "trunc", "sign")], one),
    **dict.fromkeys([getattr(aten, o).default for o in ("clone", "alias", "detach")], one),
    **dict.fromkeys([getattr(aten, o).default for o in ("relu", "signbit", "reciprocal")], one),
    **dict.fromkeys([getattr(aten, o).default for o in ("sqrt", "rsqrt", "log", "log2", "log10", "log1p")], positive),
    **dict.fromkeys([getattr(aten, o).default for o in ("lgamma", "digamma")], positive),
    **{getattr(aten, o).default: [(f(4, 3).tanh(),)] for o in ("acos", "asin", "atanh", "erfinv")},
    aten.acosh.default: [(f(4, 3).abs() + 1,)],
    aten.polygamma.default: [(1, f(4, 3).abs())],
    **dict.fromkeys([getattr(aten, o).default for o in ("maximum", "minimum", "atan2")], pair),
    aten.logical_not.default: [(truths,)],
    **{getattr(aten, f"logical_{o}").default: [(truths, others)] for o in ("and", "or", "xor")},
    **dict.fromkeys([getattr(aten, o).Tensor for o in ("clamp_min", "clamp_max", "remainder", "fmod")], pair),
    **dict.fromkeys([getattr(aten, o).default for o in ("clamp_min", "clamp_max")], scalar),
    **dict.fromkeys([getattr(aten, o).Scalar for o in ("remainder", "fmod", "copysign")], scalar),
    aten.remainder.Scalar_Tensor: [(0.5, f(4, 3))],
    aten.copysign.Tensor: pair,
    aten.div.Tensor_mode: [(f(4, 3), f(3), {"rounding_mode": mode}) for mode in ("floor", "trunc")],
    aten.div.Scalar_mode: [(f(4, 3), 0.3, {"rounding_mode": mode}) for mode in ("floor", "trunc")],
    aten.pow.Tensor_Scalar: [(f(4, 3), 2), (f(4, 3).abs(), 0.5)],
    aten.pow.Tensor_Tensor: [(f(4, 3).abs(), f(3))],
    aten.addcdiv.default: [(f(4, 3), f(4, 3), f(3))],
    aten.heaviside.default: pair,
    aten.where.self: [(b(4, 3), f(4, 3), f(4, 3)), (b(4, 1), f(4, 3), f(3))],
    prims.convert_element_type.default: [(f(4, 3), torch.float32), (f(4, 3), torch.int64)],
    aten._to_copy.default: [(f(4, 3), {"dtype": torch.float32}), (f(4, 3), {"dtype": torch.int64})],
    aten.ldexp.Tensor: pair,
    aten.frexp.Tensor: one,
    aten.copy.default: [(f(4, 3), f(4, 3)), (f(4, 3), f(3))],
    aten.complex.default: [(f(4, 3), f(4, 3)), (f(4, 3), f(3))],
    aten.polar.default: [(f(4, 3), f(4, 3)), (f(4, 3), f(3))],
    aten._conj.default: [(c(4, 3),)],
    aten.view_as_real.default: [(c(4, 3),)],
    aten.view_as_complex.default: [(f(4, 3, 2),)],
    # data movement
    aten.view.default: [
        (f(4, 6), [4, 2, 3]),
        *((sized(aten.view.default, *t), f(4, 6)) for t in ([6], [3, 2], [1, 6])),
        (lambda x: aten.view.default(x, [x.shape[0] * 3, 2]), f(4, 6)),
        (lambda x: aten.view.default(x, [3, x.shape[1] * 2]), f(3, 4, 2)),
        (lambda x: aten.view.default(x, [x.shape[0] // 2, 4]), f(8, 2)),
        (lambda x: aten.view.default(x, [3, x.shape[0] // 3, 2]), f(12, 2)),
    ],
    aten.expand.default: [(f(4, 1), [4, 3]), (sized(aten.expand.default, 3), f(4, 1))],
    aten.permute.default: [(f(4, 3, 2), [2, 0, 1])],
    aten.slice.Tensor: [
        (f(4, 6), 1, 2, 5),
        (f(4, 6), 1, 0, 6),
        (f(4, 6), 0, 1, 3),
        (f(4, 6), 1, 0, 6, 2),
        (lambda x: aten.slice.Tensor(aten.cat.default([x, x + 1], 0), 0, x.shape[0], 2 * x.shape[0]), f(4, 3)),
        (lambda x: aten.slice.Tensor(aten.cat.default([x, x + 1], 0), 0, -x.shape[0], 2 * x.shape[0]), f(4, 3)),
        (lambda x: aten.slice.Tensor(aten.view.default(x, [x.shape[0] * 2, 2]), 0, 1, 2 * x.shape[0], 2), f(4, 4)),
        *(
            (
                lambda x, start, end: aten.slice.Tensor(
                    aten.cat.default([x, x + 1, x + 2, x - 1], 0), 0, start * x.shape[0], end * x.shape[0]
                ),
                *(f(4, 3), start, end),
            )
            for start, end in ((0, 3), (1, 3), (1, 4))
        ),
        *(
            (lambda x, start: aten.slice.Tensor(x, 0, start, x.shape[0], 3) if x.shape[0] % 3 == 0 else x, f(6, 2), k)
            for k in (0, 2, 3)
        ),
    ],
    aten.select.int: [(f(4, 3), 1, 1), (f(4, 3), 0, -1)],
    aten.cat.default: [([f(4, 3), f(4, 2)], 1), ([f(4, 3), f(4, 3)], 0), ([f(4, 3), f(4, 3)], -1)],
    aten.flip.default: [(f(4, 3), [0]), (f(4, 3), [0, 1])],
    prims.rev.default: [(f(4, 3), [0]), (f(4, 3), [0, 1])],
    aten.roll.default: [(f(4, 3), [1], [0]), (f(4, 3), [1], [1]), (f(4, 3), [1])],
    aten.repeat.default: [(f(4, 3), [2, 3]), (f(4, 3), [2, 1, 1])],
    aten.as_strided.default: [(f(4, 3), [2, 3], [3, 1], 3)],
    aten.as_strided_scatter.default: [(f(4, 3), f(2, 3), [2, 3], [3, 1], 3)],
    aten.masked_scatter.default: [(f(4, 3), b(4, 3), f(4, 3))],
    aten.unbind.int: [(f(4, 3), 1), (f(4, 3), 0)],
    aten.constant_pad_nd.default: [(f(4, 3), [1, 1]), (f(4, 3), [0, 0, 1, 0]), (f(4, 3), [1, 1], 2.0)],
    aten.slice_scatter.default: [
        (f(4, 3), f(4, 1), 1, 1, 2),
        (f(4, 3), f(4, 2), 1, 0, 3, 2),
        (f(4, 3), f(4, 3), 0, 0, sys.maxsize),
        (
            lambda x, y: aten.slice_scatter.default(aten.cat.default([x, x + 1], 0), y, 0, x.shape[0], 2 * x.shape[0]),
            *(f(4, 3), f(4, 3)),
        ),
        (
            lambda x, y, z: aten.slice_scatter.default(
                aten.cat.default([x, y, z], 0), aten.cat.default([z, x], 0), 0, x.shape[0], sys.maxsize
            ),
            *(f(4, 3), f(4, 3), f(4, 3)),
        ),
        (
            lambda x, y: aten.slice_scatter.default(aten.view.default(x, [x.shape[0] * 2, 2]), y, 0, 1, sys.maxsize, 2),
            *(f(4, 4), f(4, 2)),
        ),
        (
            lambda x, y: (
                aten.slice_scatter.default(x, aten.slice.Tensor(y, 0, 0, y.shape[0], 2), 0, 1, sys.maxsize, 2)
                if x.shape[0] % 2 == 0
                else x
            ),
            *(f(4, 6), f(4, 6)),
        ),
    ],
    aten.select_scatter.default: [(f(4, 3), f(4), 1, 1)],
    aten.diagonal.default: [(f(4, 3, 3), 0, 1, 2), (f(4, 3, 4), 1, 0, 2)],
    aten.diagonal_scatter.default: [(f(4, 3, 3), f(4, 3), 0, 1, 2)],
    aten.unfold.default: [(f(4, 6), 1, 2, 1)],
    # factories
    aten.full.default: [(lambda x: x + aten.full.default([x.shape[0], 3], 2.0, dtype=x.dtype), f(4, 3))],
    aten.empty.memory_format: [
        (lambda x: x + 0 * aten.empty.memory_format([x.shape[0], 3], dtype=x.dtype).zero_(), f(4, 3))
    ],
    aten.scalar_tensor.default: [(lambda x: x + aten.scalar_tensor.default(2.0, dtype=x.dtype), f(4, 3))],
    prims.iota.default: [
        (
            lambda x, step: (
                x
                + prims.iota.default(
                    x.shape[0], start=2, step=step, dtype=torch.int64, device="cpu", requires_grad=False
                )
            ),
            f(5),
            3,
        ),
        # three rows to every two samples
        (
            lambda x: (
                (rows := aten.view.default(x, [-1, 2]))
                + prims.iota.default(
                    rows.shape[0], start=0, step=1, dtype=torch.int64, device="cpu", requires_grad=False
                ).unsqueeze(1)
            ),
            f(4, 3),
        ),
    ],
    # reductions
    **dict.fromkeys([getattr(aten, o).default for o in ("sum", "max", "min")], one),
    **{
        key: [
            (torch.eye(4, 3).bool(),),
            (torch.arange(4) > 2,),
            (torch.arange(4) < 2,),
            (torch.eye(4, 3).double(),),
            (torch.zeros(4).double(),),
        ]
        for key in [aten.any.default, aten.all.default]
    },
    **{
        key: [(f(4, 3), [1]), (f(4, 3), [0], True), (f(4, 3, 2), [0, 2])]
        for key in [aten.sum.dim_IntList, aten.mean.dim]
    },
    **{key: [(f(4, 3), [1]), (f(4, 3), [0], True)] for key in [aten.amax.default, aten.amin.default]},
    aten.any.dims: [(b(4, 3), [1]), (torch.zeros(4, 3).double(), [1]), (torch.eye(4, 3).bool(), [0], True)],
    **{
        key: [(f(4, 3), 1), (f(4, 3), 0, True)]
        for key in [
            aten.prod.dim_int,
            aten.max.dim,
            aten.min.dim,
            aten.median.dim,
            aten.nanmedian.dim,
            aten.mode.default,
            aten.argmax.default,
            aten.argmin.default,
        ]
    },
    **{
        key: [(b(4, 3), 1), (torch.eye(4, 3).bool(), 0, True), (torch.zeros(4, 3).double(), 1)]
        for key in [aten.any.dim, aten.all.dim]
    },
    aten.kthvalue.default: [(f(4, 3), 2), (f(4, 3), 2, 0, True)],
    **{key: [(f(4, 3), [1], {"correction": 1})] for key in [aten.var.correction, aten.var_mean.correction]},
    # along one dimension
    **{
        key: [(f(4, 3), 1), (f(4, 3), 0)]
        for key in [
            aten.cumsum.default,
            aten.cumprod.default,
            aten.logcumsumexp.default,
            aten.cummax.default,
            aten.cummin.default,
            aten.sort.default,
        ]
    },
    **{key: [(f(4, 3), 1, False), (f(4, 3), 0, False)] for key in [aten._softmax.default, aten._log_softmax.default]},
    aten.sort.stable: [(f(4, 3), {"stable": True, "dim": 1})],
    aten.topk.default: [(f(4, 3), 2, 1)],
    aten.glu.default: [(f(4, 6), 1)],
    aten._fft_c2c.default: [(c(4, 6), [1], 0, True)],
    aten._fft_r2c.default: [(f(4, 6), [1], 0, True)],
    aten._fft_c2r.default: [(c(4, 4), [1], 0, 6)],
    # products
    aten.mm.default: [(f(4, 3), f(3, 5)), (f(4, 4), f(4, 4))],
    aten.bmm.default: [(f(2, 4, 3), f(2, 3, 5)), (f(4, 4, 4), f(4, 4, 4))],
    aten.addmm.default: [(f(5), f(4, 3), f(3, 5)), (f(4, 5), f(4, 3), f(3, 5))],
    aten.baddbmm.default: [(f(2, 4, 5), f(2, 4, 3), f(2, 3, 5)), (f(1, 1, 5), f(2, 4, 3), f(2, 3, 5))],
    aten.addbmm.default: [(f(4, 5), f(3, 4, 2), f(3, 2, 5))],
    aten._trilinear.default: [(f(4, 3), f(2, 3, 5), f(4, 5), [1, 3], [0], [1, 2], [2, 3])],
    aten._cdist_forward.default: [
        (f(4, 3), f(5, 3), 2.0, None),
        (f(2, 4, 3), f(2, 5, 3), 1.0, None),
        (f(2, 4, 3), f(2, 4, 3), 1.0, None),
    ],
    aten._cdist_backward.default: [(f(4, 5), f(4, 3), f(5, 3), 2.0, torch.cdist(f(4, 3), f(5, 3)))],
    aten._weight_norm_interface_backward.default: [(f(4, 3), f(4, 3), f(4, 1), f(4, 1).abs() + 1, 0)],
    aten.convolution.default: [
        (f(4, 2, 5, 5), f(3, 2, 3, 3), f(3), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        (f(4, 2, 6), f(2, 3, 3), None, [2], [0], [1], True, [0], 1),
    ],
    aten.convolution_backward.default: [
        (
            f(4, 3, 5, 5),
            f(4, 2, 5, 5),
            f(3, 2, 3, 3),
            [3],
            [1, 1],
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            1,
            [True] * 3,
        )
    ],
    # indexing
    aten.embedding.default: [(f(5, 3), n(5, 4)), (f(5, 3), n(5, 4, 2))],
    aten.gather.default: [(f(4, 5), 1, n(5, 4, 2)), (f(4, 5), 0, n(4, 3, 5)), (f(4, 5), 1, n(5, 3, 2))],
    aten.index_select.default: [(f(4, 5), 1, n(5, 3)), (f(4, 5), 0, n(4, 3))],
    **{
        key: [
            (f(4, 5), [n(4, 3)]),
            (f(4, 5), [None, n(5, 3)]),
            (f(4, 5, 3), [n(4, 6), None, n(3, 6)]),
            (f(4, 5), [n(4, 6, 1), n(5, 2)]),
        ]
        for key in [aten.index.Tensor, aten._unsafe_index.Tensor]
    },
    **{
        key: [
            (f(4, 5), [n(4, 3)], f(3, 5), True),
            (f(4, 5), [None, n(5, 3)], f(4, 3), True),
            (f(4, 5), [None, torch.tensor([1, 3])], f(4, 2)),
        ]
        for key in [aten.index_put.default, aten._unsafe_index_put.default]
    },
    aten._unsafe_masked_index.default: [
        (f(4, 5), b(4, 3), [None, n(5, 3)], 0.0),
        (f(4, 5), b(4, 3), [None, n(5, 3)], 1.0),
    ],
    aten._unsafe_masked_index_put_accumulate.default: [
        (f(4, 5), b(4, 3), [None, n(5, 3)], f(4, 3)),
        (f(4, 5), b(4, 8) | True, [None, n(5, 8)], f(4, 8)),
    ],
    aten.scatter.value: [(f(4, 5), 1, n(5, 4, 2), -2.0), (f(4, 5), 1, n(5, 4, 2), 2.0), (f(4, 5), 0, n(4, 2, 5), 2.0)],
    aten.scatter.src: [(f(4, 5), 1, torch.tensor([[0, 2]] * 4), f(4, 2))],
    aten.scatter_add.default: [(f(4, 5), 1, n(5, 4, 2), f(4, 2)), (f(4, 5), 0, n(4, 6, 5), f(6, 5))],
    aten.scatter.reduce: [(f(4, 5), 1, n(5, 4, 2), f(4, 2), {"reduce": how}) for how in ("multiply", "add")],
    aten.scatter.value_reduce: [(f(4, 5), 1, n(5, 4, 2), 2.0, {"reduce": how}) for how in ("multiply", "add")],
    aten.scatter_reduce.two: [(f(4, 5), 1, n(5, 4, 2), f(4, 2), how) for how in ("sum", "amax", "prod")],
    aten.index_reduce.default: [(f(4, 5), 1, n(5, 3), f(4, 3), how) for how in ("prod", "amax")],
    aten.searchsorted.Tensor: [(torch.arange(5.0), f(4, 3)), (f(4, 5).sort().values, f(4, 3))],
    aten.bucketize.Tensor: [(f(4, 3), torch.arange(5.0).double())],
    # images
    aten.avg_pool2d.default: [(image, [2, 2]), (image, [3, 3], [1, 1], [1, 1])],
    aten.avg_pool2d_backward.default: [(f(4, 3, 6, 6), image, [3, 3], [1, 1], [1, 1], False, True, None)],
    aten._adaptive_avg_pool2d.default: [(image, [2, 2]), same_size(aten._adaptive_avg_pool2d.default, image)],
    aten._adaptive_avg_pool2d_backward.default: [
        (f(4, 3, 2, 2), image),
        (f(4, 3, 4, 4), image),  # windows that overlap
        (f(4, 3, 6, 6), image),
    ],
    aten.max_pool2d_with_indices.default: [(image, [2, 2]), (image, [3, 3], [1, 1], [1, 1])],
    aten.max_pool2d_with_indices_backward.default: [
        (f(4, 3, 3, 3), image, [2, 2], [2, 2], [0, 0], [1, 1], False, pooled[1]),
        (f(4, 3, 6, 6), image, [3, 3], [1, 1], [1, 1], [1, 1], False, same_pooled[1]),
    ],
    aten.adaptive_max_pool2d.default: [(image, [2, 2]), same_size(aten.adaptive_max_pool2d.default, image)],
    aten.adaptive_max_pool2d_backward.default: [
        (f(4, 3, 2, 2), image, adaptive[1]),
        (f(4, 3, 6, 6), image, aten.adaptive_max_pool2d.default(image, [6, 6])[1]),
    ],
    aten.adaptive_max_pool3d.default: [(volume, [2, 2, 2]), same_size(aten.adaptive_max_pool3d.default, volume)],
    aten.adaptive_max_pool3d_backward.default: [
        (f(3, 2, 2, 2, 2), volume, adaptive3[1]),
        (f(3, 2, 4, 4, 4), volume, aten.adaptive_max_pool3d.default(volume, [4, 4, 4])[1]),
    ],
    aten.avg_pool3d.default: [(volume, [2, 2, 2]), (volume, [3] * 3, [1] * 3, [1] * 3)],
    aten.avg_pool3d_backward.default: [
        (f(3, 2, 2, 2, 2), volume, [2] * 3, [2] * 3, [0] * 3, False, True, None),
        (f(3, 2, 4, 4, 4), volume, [3] * 3, [1] * 3, [1] * 3, False, True, None),
    ],
    aten._adaptive_avg_pool3d.default: [(volume, [2, 2, 2]), same_size(aten._adaptive_avg_pool3d.default, volume)],
    aten._adaptive_avg_pool3d_backward.default: [
        (f(3, 2, 2, 2, 2), volume),
        (f(3, 2, 3, 3, 3), volume),  # windows that overlap
        (f(3, 2, 4, 4, 4), volume),
    ],
    aten.max_pool3d_with_indices.default: [(volume, [2, 2, 2]), (volume, [3] * 3, [1] * 3, [1] * 3)],
    aten.max_pool3d_with_indices_backward.default: [
        (f(3, 2, 2, 2, 2), volume, [2] * 3, [2] * 3, [0] * 3, [1] * 3, False, pooled3[1]),
        (f(3, 2, 4, 4, 4), volume, [3] * 3, [1] * 3, [1] * 3, [1] * 3, False, same_pooled3[1]),
    ],
    aten.fractional_max_pool2d.default: [(image, [2, 2], [3, 3], torch.rand(4, 3, 2, dtype=torch.float64))],
    aten.fractional_max_pool2d_backward.default: [(f(4, 3, 3, 3), image, [2, 2], [3, 3], fraction[1])],
    aten.fractional_max_pool3d.default: [(volume, [2] * 3, [2] * 3, torch.rand(3, 2, 3, dtype=torch.float64))],
    aten.fractional_max_pool3d_backward.default: [(f(3, 2, 2, 2, 2), volume, [2] * 3, [2] * 3, fraction3[1])],
    aten.grid_sampler_2d.default: [
        (image, f(4, 5, 4, 2) / 3, 0, 0, False),
        (f(4, 4, 4, 4), f(4, 4, 4, 2) / 3, 0, 0, False),
        (f(2, 4, 5, 5), f(2, 4, 4, 2) / 3, 0, 0, False),
        (f(2, 3, 5, 5), f(2, 4, 4, 2) / 3, 0, 0, False),
    ],
    aten.grid_sampler_2d_backward.default: [
        (f(4, 3, 5, 4), image, f(4, 5, 4, 2) / 3, 0, 0, False, [True, True]),
        (f(4, 4, 4, 4), f(4, 4, 4, 4), f(4, 4, 4, 2) / 3, 0, 0, False, [True, True]),
        (f(4, 3, 5, 4), f(4, 3, 2, 6), f(4, 5, 4, 2) / 3, 0, 0, False, [True, True]),  # as high as coordinates
    ],
    aten.grid_sampler_3d.default: [
        (volume, f(3, 2, 3, 4, 3) / 3, 0, 0, False),
        (f(4, 4, 4, 4, 4), f(4, 4, 4, 4, 3) / 3, 0, 0, False),
        (f(2, 4, 5, 5, 5), f(2, 3, 4, 2, 3) / 3, 0, 0, False),
        (f(2, 4, 5, 5, 5), f(2, 3, 2, 4, 3) / 3, 0, 0, False),
        (f(2, 3, 5, 5, 5), f(2, 4, 4, 4, 3) / 3, 0, 0, False),
        (f(2, 3, 5, 5, 5), f(2, 6, 4, 4, 3) / 3, 0, 0, False),
    ],
    aten.grid_sampler_3d_backward.default: [
        (f(3, 2, 2, 3, 4), volume, f(3, 2, 3, 4, 3) / 3, 0, 0, False, [True, True]),
        (f(4, 4, 4, 4, 4), f(4, 4, 4, 4, 4), f(4, 4, 4, 4, 3) / 3, 0, 0, False, [True, True]),
        (f(4, 2, 5, 4, 5), f(4, 2, 3, 6, 6), f(4, 5, 4, 5, 3) / 3, 0, 0, False, [True, True]),
    ],
    **{
        getattr(aten, f"{kind}_pad{rank}d_backward").default: [
            (f(4, *[6] * (rank + 1)), f(4, 6, *[4] * rank), [1] * 2 * rank),
            (f(4, 6, *[5] * rank), f(4, 6, *[5] * rank), [1, -1] * rank),
        ]
        for kind in ("reflection", "replication")
        for rank in (1, 2, 3)
    },
    **{
        op: [
            (
                lambda x, size, old, op=op, rest=rest: op(x, size, [x.shape[0], *old], *rest),
                f(4, 3, *[8] * rank),
                [8] * rank,
                [3, *[4] * rank],
            ),
            (lambda x, op=op, rest=rest: op(x, [*x.shape[2:]], [*x.shape], *rest), f(4, 3, *[6] * rank)),
            (
                lambda x, op=op, rank=rank, rest=rest: op(x, [6] * rank, [*x.shape[:2], *[3] * rank], *rest),
                f(4, 4, *[6] * rank),
            ),
        ]
        for op, rank, rest in [
            (aten.upsample_bilinear2d_backward.default, 2, [False]),
            (aten.upsample_bicubic2d_backward.default, 2, [False]),
            (aten._upsample_bilinear2d_aa_backward.default, 2, [False]),
            (aten._upsample_bicubic2d_aa_backward.default, 2, [False]),
            (aten.upsample_linear1d_backward.default, 1, [False]),
            (aten.upsample_trilinear3d_backward.default, 3, [False]),
            (aten.upsample_nearest1d_backward.default, 1, []),
            (aten.upsample_nearest2d_backward.default, 2, []),
            (aten.upsample_nearest3d_backward.default, 3, []),
        ]
    },
    **{
        op: [(image, [8, 8], False), (f(4, 4, 6, 6), [8, 8], False), (*same_size(op, image), False)]
        for op in (aten._upsample_bilinear2d_aa.default, aten._upsample_bicubic2d_aa.default)
    },
    # matrices
    **dict.fromkeys(
        [
            aten.linalg_inv_ex.default,
            aten.linalg_matrix_exp.default,
            aten._linalg_svd.default,
            aten.linalg_eig.default,
            aten.linalg_qr.default,
            aten.geqrf.default,
            aten.linalg_lu.default,
            aten.linalg_lu_factor_ex.default,
        ],
        matrices,
    ),
    **{
        key: [(spd(5, 3, 3),)]
        for key in [
            overload("aten.cholesky"),  # not in torch 2.15
            aten.linalg_cholesky_ex.default,
            aten._linalg_eigh.default,
            aten.linalg_ldl_factor_ex.default,
        ]
    },
    # these two look at how their operand lies in memory: a pass sees to that
    **{
        op: [(partial(laid_out, op), f(5, 3, 3)), (partial(laid_out, op), f(2, 4, 3, 3))]
        for op in (aten._linalg_det.default, aten._linalg_slogdet.default)
    },
    aten.linalg_pinv.atol_rtol_tensor: [
        (f(5, *rank), {"atol": torch.zeros(5).double(), "rtol": torch.zeros(5).double()}) for rank in ((4, 3), (3, 3))
    ],
    aten.cholesky_inverse.default: [(torch.linalg.cholesky(spd(5, 3, 3)),)],
    aten.cholesky_solve.default: [(f(5, 3, 4), torch.linalg.cholesky(spd(5, 3, 3)))],
    aten.linalg_solve_triangular.default: [
        (upper(5, 3, 3), f(5, 3, 4), {"upper": True}),
        (upper(5, 3, 3), f(5, 4, 3), {"upper": True, "left": False}),
    ],
    aten.triangular_solve.default: [(f(5, 3, 4), upper(5, 3, 3))],
    aten._linalg_solve_ex.default: [(spd(5, 3, 3), f(5, 3, 4))],
    aten.ormqr.default: [(*householder, f(4, 5, 2)), (*square, f(4, 3, 2))],
    aten.linalg_householder_product.default: [householder, square],
    aten.linalg_lu_solve.default: [(lu, pivots, f(4, 3, 2))],
    aten.lu_unpack.default: [(lu, pivots)],
    aten.linalg_ldl_solve.default: [(ld, swaps, f(4, 3, 2))],
    # attention
    aten._scaled_dot_product_flash_attention_for_cpu.default: [(q, q, q), (q, q, q, {"attn_mask": mask})],
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: [
        (f(4, 2, 5, 8), q, q, q, flash[0], flash[1], 0.0, False),
        (f(4, 2, 5, 8), q, q, q, masked[0], masked[1], 0.0, False, {"attn_mask": mask}),
    ],
}

SAMPLES = {op: calls for op, calls in SAMPLES.items() if op in RULES}
