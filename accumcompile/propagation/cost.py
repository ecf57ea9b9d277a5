"""What values cost: elements and bytes, by the sizes of the call that was traced."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from ..ir.binding import traced


def elements(value: Any) -> int:
    """The elements of a value, or of several; what is no tensor has none."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return sum(math.prod(map(traced, v.shape)) for v in values if isinstance(v, torch.Tensor))


def elements_of(node: Node) -> int:
    """The elements that a node makes."""
    return elements(node.meta.get("val"))


def bytes_of(node: Node) -> int:
    """The bytes of a node's one result; nothing for what is no tensor."""
    value = node.meta.get("val")
    return elements(value) * value.dtype.itemsize if isinstance(value, torch.Tensor) else 0
