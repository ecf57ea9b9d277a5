"""Compares the results of compiled code with those of its graph, run uncompiled on the same arguments.

Each result may differ, in the Euclidean norm and in its largest element, by a few roundings, or by a small multiple of
the graph's own sensitivity to rounding, which is measured if it is needed (``rounding``). If a tie between equal values
decides a result, code that breaks the tie differently cannot be told from wrong code, and both pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..node_by_node import Plain
from .rounding import MANY_BITS, Coarse

Norms: TypeAlias = tuple[float, float]  # the Euclidean norm, and the largest element

ROUNDINGS, FEW_ROUNDINGS = 32, 2  # roundings of its dtype that a result may always differ by; FEW for few bits
TIMES = 3  # the allowed multiple of the measured sensitivity
PIECE = 1 << 20  # elements compared at a time, in float64


@dataclass
class Suspect:
    """A result that differs: by how much, how much is explained, and its own size."""

    differs: Norms
    explained: Norms
    size: Norms

    @property
    def beyond(self) -> bool:
        """Whether it differs by more than is explained."""
        return any(d > e for d, e in zip(self.differs, self.explained, strict=True))

    def relative(self, norms: Norms) -> float:
        """A difference relative to the result, in the norm that exceeds its explanation most."""
        which = max((0, 1), key=lambda i: self.differs[i] / max(self.explained[i], 1e-300))
        return norms[which] / max(self.size[which], 1e-300)


class WrongCodeError(Exception):
    """Compiled code gave a different result than its graph; caught where the graph can run uncompiled instead."""

    def __init__(self, position: int, suspect: Suspect, arguments: Sequence[Any]):
        super().__init__(
            f"result {position} differs by {suspect.differs}, of which rounding explains {suspect.explained}"
        )
        self.position, self.suspect, self.arguments = position, suspect, arguments


class Expected:
    """The results that compiled code must give, from running its graph uncompiled."""

    def __init__(self, graph: GraphModule, arguments: Sequence[Any], meaning: Callable[[list], list] = list):
        """``meaning`` maps the graph's outputs to the values that compiled code produces: it may accumulate them."""
        self.graph, self.arguments, self.meaning = graph, arguments, meaning
        plain = Plain(graph)
        self.values = meaning(plain.values(*arguments))
        self.bytes = plain.most

    def compare(self, values: Sequence[Tensor]) -> None:
        """Raise ``WrongCodeError`` if a value differs by more than rounding explains."""
        suspects = unexplained(values, self.values, self.coarse())
        if suspects:
            position = max(suspects, key=lambda i: suspects[i].relative(suspects[i].differs))
            raise WrongCodeError(position, suspects[position], self.arguments)

    def coarse(self) -> Iterator[list[Tensor]]:
        """The same values, computed less exactly, in a different way each time."""
        for turn in range(len(MANY_BITS)):
            yield self.meaning(Coarse(self.graph, turn).values(*self.arguments))


def unexplained(
    values: Sequence[Tensor], expected: Sequence[Tensor], again: Iterable[list[Tensor]]
) -> dict[int, Suspect]:
    """The values that differ from ``expected`` by more than the less exact runs in ``again`` explain."""
    left = {}
    for i, (value, right) in enumerate(zip(values, expected, strict=True)):
        suspect = _suspect(value, right)
        if suspect.beyond:
            left[i] = suspect
    if not left:
        return left
    for coarse in again:
        for i, suspect in left.items():
            moved = distance(coarse[i], expected[i])
            norm, largest = (max(e, TIMES * m) for e, m in zip(suspect.explained, moved, strict=True))
            suspect.explained = norm, largest
        left = {i: suspect for i, suspect in left.items() if suspect.beyond}
        if not left:
            break
    return left


def _suspect(value: Tensor, right: Tensor) -> Suspect:
    size = extent(right)
    share = _rounding(right.dtype)
    return Suspect(distance(value, right), (share * size[0], share * size[1]), size)


def _rounding(dtype: torch.dtype) -> float:
    if not dtype.is_floating_point and not dtype.is_complex:
        return 0.0
    eps = torch.finfo(dtype).eps
    return eps * (ROUNDINGS if eps < 1e-6 else FEW_ROUNDINGS)


def distance(a: Tensor, b: Tensor) -> Norms:
    """The norms of a difference. Equal infinities and NaN do not differ; one against a number differs by infinity."""
    squares = largest = 0.0
    for x, y in zip(_pieces(a), _pieces(b), strict=True):
        same = (x == y) | (x.isnan() & y.isnan())
        apart = torch.where(same, 0.0, x.double() - y.double()).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
        squares += apart.square().sum().item()
        largest = max(largest, apart.max().item())
    return squares**0.5, largest


def extent(x: Tensor) -> Norms:
    """The norms of the finite elements of ``x``."""
    pieces = [torch.where(piece.isfinite(), piece, 0).double().abs() for piece in _pieces(x)]
    return sum(p.square().sum().item() for p in pieces) ** 0.5, max((p.max().item() for p in pieces), default=0.0)


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    flat = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1)
    return flat.split(PIECE) if flat.numel() else ()
