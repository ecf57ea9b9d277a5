"""Fake tensors with symbolic sizes that we create.

Checked on torch 2.13; the names exist in 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv


class Tracing:
    """A fake tensor mode with symbolic sizes that we create, and the guards on them."""

    def __init__(self) -> None:
        self.env = ShapeEnv(duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.symbols: list[sympy.Symbol] = []

    def symbol(self, value: int, name: str) -> sympy.Symbol:
        """A new symbol for a size that is ``value`` now, neither 0 nor 1."""
        source = ConstantSource(f"__accumcompile_{name}")
        positive = True if value > 0 else None
        symbol = self.env.create_symbol(value, source, DimDynamic.DYNAMIC, positive=positive)
        self.symbols.append(symbol)
        return symbol

    def size(self, expr: Any, value: int) -> int | torch.SymInt:
        """The SymInt of an expression in our symbols."""
        if not isinstance(expr, sympy.Expr) or expr.is_number:
            return int(expr)
        return self.env.create_symintnode(expr, hint=value)

    def empty(self, shape: Sequence[Any], stride: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Any:
        """A fake tensor."""
        with self.mode:
            return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype, device=device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run operators on fake tensors inside the block."""
        with self.mode, torch.no_grad(), enable_python_dispatcher():
            yield

    def guard(self, hints: Mapping[sympy.Symbol, int]) -> Callable[[Sequence[int]], bool] | None:
        """A check of the guards on the symbols, given their values in order; None if there are none."""
        if not self.symbols:
            return None
        sizes: list[Any] = [self.env.create_symintnode(s, hint=hints[s]) for s in self.symbols]
        text = self.env.produce_guards_expression(sizes, ignore_static=False)
        if text is None:
            return None
        evaluate = self.env.evaluate_guards_expression
        return lambda values: bool(evaluate(text, values))
