"""Rules for operators that only some supported torch versions, or only one device, have."""

from __future__ import annotations

import torch

from ..ir.torch_api import OpOverload
from .rule import Rule


def overload(name: str) -> OpOverload | None:
    """The default overload of "namespace.name", or None if this torch lacks it."""
    namespace, packet = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet, None), "default", None)


# The `*` results of attention: sequence lengths, the generator's state, a debug mask.
BY_NAME = {
    "prims.fma": Rule("... -> ...", linear=({0, 2}, {1, 2})),
    "aten.cholesky": Rule("... _ _ -> ... _ _"),
    "prims._low_memory_max_pool_with_offsets": Rule("... _ _ -> ... _ _, ... _ _", discontinuous=True, picks=True),
    "prims._low_memory_max_pool_offsets_to_indices": Rule("... _ _ -> ... _ _"),
    "aten._scaled_dot_product_flash_attention": Rule("... _ _ -> ... _ _, ... _, *, *, *, *, *, *, *"),
    "aten._scaled_dot_product_flash_attention_backward": Rule(
        "... _ _, ... _ _, ... _ _, ... _ _, ... _ _, ... _, *, *, *, * -> ... _ _, ... _ _, ... _ _", linear=({0},)
    ),
    "aten._scaled_dot_product_efficient_attention": Rule("... _ _ -> ... _ _, ... _, *, *"),
    "aten._scaled_dot_product_efficient_attention_backward": Rule(
        "... _ _, ... _ _, ... _ _, ... _ _, ... _ _, ... _ _, ... _, *, * -> ... _ _, ... _ _, ... _ _, ... _ _",
        linear=({0},),
    ),
    "aten._scaled_dot_product_cudnn_attention": Rule("... _ _ -> ... _ _, ... _ _, *, *, *, *, *, *, *"),
    "aten._scaled_dot_product_cudnn_attention_backward": Rule(
        "... _ _, ... _ _, ... _ _, ... _ _, ... _ _, ... _ _, *, *, ... _ _, *, * -> ... _ _, ... _ _, ... _ _",
        linear=({0},),
    ),
}

OPTIONAL = {op: rule for name, rule in BY_NAME.items() if (op := overload(name)) is not None}
