"""The cost of values in elements and bytes, at the sizes of the traced call."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ..ir.binding import traced


def elements(value: Any) -> int:
    """The number of elements in a tensor or in several; 0 for other values."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return sum(math.prod(map(traced, v.shape)) for v in values if isinstance(v, torch.Tensor))


def elements_of(node: Node) -> int:
    """The number of elements in a node's results."""
    return elements(node.meta.get("val"))


def bytes_of(node: Node) -> int:
    """The bytes of a node's single result; 0 if it is not a tensor."""
    value = node.meta.get("val")
    return elements(value) * value.dtype.itemsize if isinstance(value, torch.Tensor) else 0
