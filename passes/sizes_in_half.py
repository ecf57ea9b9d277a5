"""Sizes in half-precision arithmetic: 262144 becomes infinite in float16, and 257 becomes 256 in bfloat16.

Before::

    mean = aten.div.Scalar(x, s0)                    # x is float16

After::

    wide = prims.convert_element_type(x, torch.float32)
    div = aten.div.Scalar(wide, s0)
    mean = prims.convert_element_type(div, torch.float16)

Eager kernels compute in the wider dtype internally, as does code compiled for a fixed size; Inductor first rounds a
symbolic number to the tensor's dtype, also under ``torch.compile(dynamic=True)`` (2.13).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from accumcompile.ir.carry import WIDER
from accumcompile.ir.operands import is_size, is_tensor
from accumcompile.ir.torch_api import pytree
from accumcompile.rules.table import rule_of

from .manager import Context
from .rewriting import Emit, rewrite

cast = torch.ops.prims.convert_element_type.default


def sizes_in_half(gm: GraphModule, context: Context) -> GraphModule:
    """Rewrite every pointwise operator that combines half precision with a symbolic number."""
    meeting = {node.target for node in gm.graph.nodes if _meets_a_size(node)}
    return rewrite(gm, dict.fromkeys(meeting, _widened))


def _meets_a_size(node: Node) -> bool:
    rule = rule_of(node.target)
    pointwise = rule is not None and rule.pointwise
    return pointwise and is_tensor(node) and _is_half(node) and any(is_size(n) for n in node.all_input_nodes)


def _is_half(node: Node) -> bool:
    return is_tensor(node) and node.meta["val"].dtype in WIDER


def _widened(emit: Emit, node: Node, args: tuple, kwargs: dict) -> Node | None:
    if not _meets_a_size(node):
        return None

    def wide(operand: Node) -> Node:
        return emit(cast, operand, WIDER[operand.meta["val"].dtype]) if _is_half(operand) else operand

    args, kwargs = pytree.tree_map_only(Node, wide, (args, kwargs))
    result: Any = emit(node.target, *args, **kwargs)
    return emit(cast, result, node.meta["val"].dtype)
