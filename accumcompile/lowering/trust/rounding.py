"""How far rounding alone may move a graph's results: its sensitivity to rounding, measured.

The graph runs once more with every value rounded, up or down at random, to a grid that is coarser by a few bits. The
changes are those that rounding can cause, including jumps at ties and thresholds. This is Monte Carlo arithmetic
(D. S. Parker, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic", 1997) on a grid, so that
a value selected from rounded values is already rounded: a maximum still equals one of its operands.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ...ir.torch_api import pytree
from ...rules.table import rule_of
from ..node_by_node import Plain

# The bits dropped in each successive run, for dtypes with many bits and for those with few.
MANY_BITS, FEW_BITS = (*[1] * 8, *[2] * 8, *[3] * 8), [1] * 24

_WORDS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}
_FRACTION = {torch.float64: 52, torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}
_SUMMED_IN = 23  # fraction bits of the dtype in which half precision is summed
_LANES = 4  # log2 of the partial sums (at least 2**4) in which compiled code sums, each sequentially
_IN_A_ROW = 4096  # the most terms that Inductor adds up sequentially


class Coarse(Plain):
    """Runs a graph with every value rounded to a coarser grid."""

    def __init__(self, graph: GraphModule, turn: int):
        super().__init__(graph)
        self.turn = turn
        self._noise: dict[torch.device, torch.Generator] = {}

    def run_node(self, n: Node) -> Any:
        """The rounded value of a node."""
        value = super().run_node(n)
        return value if n.op == "output" else self._all_rounded(value)

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """A long sum is rounded more coarsely: added in another order, it loses more than its last bit.

        With n terms, random roundings add up to sqrt(n) roundings of a term, so the operands are rounded more coarsely.
        If all terms are equal, n / 4 roundings of the result go the same way, so the result is rounded more coarsely.
        """
        value = super().call_function(target, args, kwargs)
        rule = rule_of(target)
        if rule is None or not rule.adds:
            return value
        terms = max(_most_elements((args, kwargs)) / max(_most_elements(value), 1), 1)
        up_or_down, alike = int(math.log2(terms) / 2) - _LANES, int(math.log2(min(terms, _IN_A_ROW))) - 2
        if up_or_down > 0:
            args, kwargs = self._all_rounded((args, kwargs), up_or_down)
            value = super().call_function(target, args, kwargs)
        return self._all_rounded(value, alike) if alike > 0 else value

    def _all_rounded(self, values: Any, extra: int = 0) -> Any:
        return pytree.tree_map_only(Tensor, lambda x: self._rounded(x, extra), values)

    def _rounded(self, x: Tensor, extra: int = 0) -> Tensor:
        if x.dtype not in _WORDS:
            return x
        few = x.dtype.itemsize < 4
        if few:
            extra = max(extra - _SUMMED_IN + _FRACTION[x.dtype], 0)
        bits = (FEW_BITS if few else MANY_BITS)[self.turn] + extra
        if x.device not in self._noise:
            self._noise[x.device] = torch.Generator(x.device).manual_seed(self.turn)
        return coarse(x, min(bits, _FRACTION[x.dtype] - 1), self.turn, self._noise[x.device])


def coarse(x: Tensor, bits: int, turn: int, noise: torch.Generator) -> Tensor:
    """``x`` on a grid that drops the last ``bits`` of its fraction, each element rounded up or down at random.

    Values on the grid, which every ``turn`` shifts, stay unchanged; so do infinities, NaN, and values with so few bits
    that they are probably exact in any code: 0, 1, a count.
    """
    word = x.contiguous().view(_WORDS[x.dtype])
    step, shift = 1 << bits, turn % (1 << bits)
    below = ((word - shift) & -step) + shift
    upwards = torch.rand(word.shape, generator=noise, device=x.device) < 0.5
    rounded = torch.where(upwards & (word != below), below + step, below).view(x.dtype)
    exact = word & ((1 << _FRACTION[x.dtype] * 2 // 3) - 1) == 0
    return torch.where(exact | ~x.isfinite(), x, rounded)


def _most_elements(value: Any) -> int:
    return max((leaf.numel() for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), default=0)
