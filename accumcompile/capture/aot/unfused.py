"""Torch functions whose single fused operator hides the sample dimension, rewritten with operators that show it.

They are replaced in Dynamo's graph, before autograd and decompositions. Calls that a replacement does not cover go to
torch's own function.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import GraphModule


def respell(gm: GraphModule) -> None:
    """Replace each function that is in the table, in place."""
    for node in gm.graph.nodes:
        if node.op == "call_function" and node.target in _TABLE:
            node.target = _TABLE[node.target]
    gm.recompile()


def embedding_bag(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> torch.Tensor:
    """``F.embedding_bag``: bags of equal length, one per row of ``input``, become a lookup and a reduction."""
    if weight.dtype == torch.long and input.is_floating_point():
        input, weight = weight, input  # the old argument order, which torch still accepts
    if input.dim() != 2 or max_norm is not None or scale_grad_by_freq or sparse:
        rest: Any = (per_sample_weights, include_last_offset, padding_idx)
        return F.embedding_bag(input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, *rest)
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if padding_idx is None:
        return _pooled(rows, mode)
    counted = (input != padding_idx % weight.shape[0])[..., None]
    if mode == "max":
        pooled = _pooled(torch.where(counted, rows, -torch.inf), mode)
        return torch.where(counted.any(1), pooled, 0)
    total = torch.where(counted, rows, 0).sum(1)
    return total / counted.sum(1).clamp(min=1) if mode == "mean" else total


def _pooled(rows: torch.Tensor, mode: str) -> torch.Tensor:
    """[samples, entries, features] -> [samples, features]. Among equal maxima, the first gets the gradient."""
    if mode == "max":
        return rows.max(1).values
    return rows.sum(1) if mode == "sum" else rows.mean(1)


_TABLE = {F.embedding_bag: embedding_bag}
