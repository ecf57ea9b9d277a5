"""What a generator of ops works with: the values so far, and new parameters and inputs.

Every line runs as it is made, at two batch sizes: that gives its result's dims, and shows that it is well scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from catalogue.row import seeded
from torch import nn
from torch.nn import functional as F

from .dims import PROBES, Dim, dims_of

T = TypeVar("T")
LARGE, SMALL = 20.0, 1e-2  # a value outside of these is scaled
MOST_ELEMENTS = 1 << 15  # of one value, at the smaller probe


class Unfit(Exception):
    """A generator finds no value that it can use, or what it made is not well defined."""


@dataclass(frozen=True)
class Value:
    """A value of the step: its name and its type."""

    name: str
    dims: tuple[Dim, ...]
    dtype: torch.dtype
    trained: bool  # whether a parameter went into it

    def __str__(self) -> str:
        return self.name

    @property
    def rank(self) -> int:
        return len(self.dims)

    @cached_property
    def batch_dims(self) -> list[int]:
        """The dimensions that grow with the batch."""
        return [i for i, dim in enumerate(self.dims) if dim.batch]

    @cached_property
    def plain_dims(self) -> list[int]:
        """The others, but those of size 1."""
        return [i for i, dim in enumerate(self.dims) if not dim.batch and dim.coefficient > 1]

    @property
    def is_float(self) -> bool:
        return self.dtype.is_floating_point

    def size(self, dim: int) -> int:
        """The size of a dimension without the batch."""
        return int(self.dims[dim].coefficient)


class Maker:
    """Draws, and the step so far. ``draw(n)`` yields a number below ``n``."""

    def __init__(self, draw: Callable[[int], int], granule: int):
        self._draw, self.granule = draw, granule
        self.parameters: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self.values: list[Value] = []
        self.unused: list[Value] = []
        self.taken: list[Value] = []  # by the line that is being made
        self.model = nn.Module()
        self.scopes: list[dict[str, Any]] = [
            {"torch": torch, "F": F, "model": self.model, "B": size} for size in PROBES
        ]

    # --- draws

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options, the first of which is the simplest."""
        if not options:
            raise Unfit
        return options[self._draw(len(options))]

    def chance(self, percent: int) -> bool:
        """True that often, at most."""
        return self._draw(100) >= 100 - percent

    def value(self, where: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value of floating point, often one that nothing has read yet, and the later the likelier."""
        fresh = [v for v in self.unused if v.is_float and v not in self.taken and where(v)]
        fitting = [v for v in self.values if v.is_float and where(v)]
        pool = fresh if fresh and not self.chance(15) else fitting
        found = self.one_of(pool[::-1][:8])
        self.taken.append(found)
        return found

    def like(self, other: Value) -> Value:
        """A value of the same shape, if possible another one."""
        same = [v for v in self.values if v.is_float and v.dims == other.dims]
        found = self.one_of([v for v in same if v != other][::-1][:4] or same)
        self.taken.append(found)
        return found

    def dim(self, value: Value) -> int:
        """Any dimension."""
        return self.one_of(range(value.rank))

    def dims(self, value: Value) -> list[int]:
        """Some dimensions, at least one."""
        chosen = [d for d in range(value.rank) if self.chance(50)]
        return chosen or [self.dim(value)]

    def apart(self, value: Value) -> int:
        """A dimension along which no two numbers are equal, so that they have an order."""
        found = [scope[value.name] for scope in self.scopes]
        return self.one_of([d for d in range(value.rank) if all(_differ(x, d) for x in found)])

    # --- parameters and inputs

    def parameter(self, *sizes: int, scale: str = "") -> str:
        """A new parameter, as the step reads it."""
        shape = ", ".join(map(str, sizes))
        return self.module(f"nn.Parameter(torch.randn({shape}){scale})", "w")

    def module(self, code: str, prefix: str = "m") -> str:
        """A new parameter or module, as the step reads it."""
        name = f"{prefix}{len(self.parameters)}"
        self.parameters[name] = code
        with seeded(len(self.parameters)):
            setattr(self.model, name, eval(code, {"torch": torch, "nn": nn}))
        return f"model.{name}"

    def input(self, name: str, code: str) -> Value:
        """The input that this code makes, with the batch size ``B`` in it: an earlier one of the same, or a new one."""
        known = next((n for n, c in self.inputs.items() if c == code), None)
        if known is not None:
            return next(v for v in self.values if v.name == known)
        return self._enter(self.unshared_input(name, code))

    def unshared_input(self, name: str, code: str) -> str:
        """The name of a new input that no other generator reads: its rows have nothing to do with the batch's."""
        name = f"{name}{len(self.inputs)}" if self.inputs else name
        self.inputs[name] = code
        for scope in self.scopes:
            with seeded(len(self.inputs)):
                scope[name] = eval(code, {"torch": torch, "B": scope["B"]})
        return name

    # --- lines

    def attempt(self, generate: Callable[[Maker], T]) -> T | None:
        """What a generator makes; None, and no trace of it, where it finds nothing to work with."""
        before = dict(self.parameters), dict(self.inputs), list(self.values), list(self.unused)
        self.taken = []
        try:
            return generate(self)
        except Unfit:
            self.parameters, self.inputs, self.values, self.unused = before
            return None

    def line(self, name: str, code: str) -> str:
        """Run a line that makes a new value; the code, scaled where its values are too large or small."""
        results = [self._run(code, scope) for scope in self.scopes]
        factor = _factor(results[0])
        if factor is not None:
            code, results = f"{factor:g} * ({code})", [result * factor for result in results]
        for scope, result in zip(self.scopes, results, strict=True):
            scope[name] = result
        made = self._enter(name)
        self.unused = [v for v in self.unused if v not in self.taken] + [made]
        return code

    def _run(self, code: str, scope: dict[str, Any]) -> torch.Tensor:
        try:
            result = eval(code, scope)
        except (RuntimeError, IndexError, ValueError) as error:
            raise Unfit(f"{code}: {error}") from error
        if not isinstance(result, torch.Tensor) or not result.numel():
            raise Unfit(code)
        return result

    def _enter(self, name: str) -> Value:
        found = [scope[name] for scope in self.scopes]
        dims = dims_of([x.shape for x in found])
        fits = dims is not None and all(d.coefficient * self.granule**d.power % 1 == 0 for d in dims)
        if not fits or found[0].numel() > MOST_ELEMENTS:
            raise Unfit(name)
        self.values.append(Value(name, dims, found[0].dtype, found[0].requires_grad))
        return self.values[-1]


def _differ(x: torch.Tensor, dim: int) -> bool:
    gaps = x.detach().sort(dim).values.diff(dim=dim)
    return gaps.numel() > 0 and gaps.min().item() > 1e-6


def _factor(x: torch.Tensor) -> float | None:
    """What brings the values of ``x`` into the range where differences mean something."""
    if not x.is_floating_point():
        return None
    largest = x.detach().abs().max().item()
    if not torch.isfinite(x.detach()).all() or largest < 1e-9:
        raise Unfit("infinite, or nothing but zeros")
    if SMALL <= largest <= LARGE:
        return None
    return 10.0 ** -round(torch.tensor(largest).log10().item())
