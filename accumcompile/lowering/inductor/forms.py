"""One compiled form of a loop's body: first (returns its contributions) or later (adds them in place)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import sympy
import torch
from torch.fx import GraphModule

from ...ir.binding import Binding, number, traced
from ...ir.loop import LoopSpec, rows_of
from ...ir.sizes import expression
from ...passes.fuse_accumulation import Accumulation, fuse_accumulation
from ...passes.manager import run
from ...passes.store_compared import store_compared
from ...planning.memory import peak, steps_of
from ..specialise import Specialised, specialise
from ..specs import ArgumentSpec, Floating, symbolic_stride
from . import api as inductor_api
from .in_place_products import in_place_products

BODY_PASSES = [store_compared, fuse_accumulation, in_place_products]


@dataclass(frozen=True)
class Buffer:
    """The buffer of a full batch's y: its sharded dim, and its dims from outermost to innermost.

    If the sharded dim is outermost, a piece's strides are static, and the body writes its piece directly.
    """

    dim: int
    order: tuple[int, ...]
    shape: tuple[Any, ...]  # of a piece, in the form's symbols
    dtype: torch.dtype
    device: torch.device

    @property
    def direct(self) -> bool:
        """Whether the body writes its piece directly into the buffer."""
        return bool(self.order) and self.order[0] == self.dim

    @classmethod
    def of(cls, piece: torch.Tensor, dim: int) -> Buffer:
        """The buffer for pieces like ``piece``, a fake tensor."""
        strides = [traced(s) for s in piece.stride()]
        order = tuple(sorted(range(piece.dim()), key=lambda d: (-strides[d], d != dim, d)))
        return cls(dim, order, tuple(map(expression, piece.shape)), piece.dtype, piece.device)

    def stride(self, shape: Sequence[Any]) -> list[Any]:
        """The strides of a piece, or of the whole, of this shape."""
        strides, running = [1] * len(shape), 1
        for dim in reversed(self.order):
            strides[dim], running = running, running * shape[dim]
        return strides

    def make(self, values: dict, rows: int, batch: int) -> torch.Tensor:
        """Allocate the memory for the full batch."""
        shape = [number(s, values) for s in self.shape]
        shape[self.dim] = shape[self.dim] * batch // rows
        return torch.empty_permuted(shape, self.order, dtype=self.dtype, device=self.device)

    def pieces(self, whole: torch.Tensor, rows: int, batch: int) -> list[torch.Tensor]:
        """The micro-batches' slices of the whole."""
        return list(whole.split(max(rows_of(rows, whole.shape[self.dim], batch), 1), self.dim))


@dataclass
class Form:
    """A compiled body. It takes one list: accumulators, slots, the values of its symbols, other arguments."""

    call: inductor_api.Boxed
    select: Callable[[Sequence[Any]], tuple]  # selects those of (rows, start, consts, xs) that remain
    symbols: dict[sympy.Symbol, sympy.Expr]
    guard: Callable[[Sequence[int]], bool] | None
    buffers: list[Buffer]
    need: int = 0  # peak bytes of the graph's values if it runs uncompiled
    checked: bool = False  # whether it was compared with its graph
    copied: list[int] | None = None  # positions of contributions that share memory and are copied

    def values(self, sizes: Binding) -> dict:
        """The values of this form's own symbols."""
        return {ours: number(theirs, sizes) for ours, theirs in self.symbols.items()}

    def serves(self, sizes: Binding) -> bool:
        """Whether the assumptions about symbolic sizes hold."""
        return self.guard is None or self.guard(list(self.values(sizes).values()))

    def left(self, outputs: Sequence[Any], accumulators: list, slots: list, carries: int) -> list[torch.Tensor]:
        """All values that a call returned or updated: the accumulators (at first, contributions), then its pieces."""
        returned, written = iter(outputs), iter(slots)
        sums = accumulators or [next(returned) for _ in range(carries)]
        return [*sums, *(next(written if b.direct else returned) for b in self.buffers)]

    def contributions(self, outputs: Sequence[Any], arguments: Sequence[Any], count: int) -> list[torch.Tensor]:
        """The accumulators that the first micro-batch returns, copied if they share memory."""
        parts = list(outputs[:count])
        if self.copied is None:
            self.copied = sharing(parts, arguments)
        for i in self.copied:
            parts[i] = parts[i].clone(memory_format=torch.contiguous_format)
        return parts


def sharing(parts: Sequence[torch.Tensor], arguments: Sequence[Any]) -> list[int]:
    """Which parts share memory with an argument, with an earlier part, or within themselves."""
    taken = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, torch.Tensor)}
    positions = []
    for i, part in enumerate(parts):
        place = part.untyped_storage().data_ptr()
        if place in taken or any(n > 1 and s == 0 for n, s in zip(part.shape, part.stride(), strict=True)):
            positions.append(i)
        taken.add(place)
    return positions


def build(
    body: GraphModule,
    loop: LoopSpec,
    specs: Sequence[ArgumentSpec],
    sizes: Binding,
    accumulators: Sequence[torch.Tensor] | None,
    buffers: Sequence[Buffer] | None,
    compiler: Callable[..., inductor_api.Boxed],
) -> Form:
    """Compile ``body`` for arguments of these ``specs``; ``accumulators`` is None for the first micro-batch."""
    done = specialise(body.graph, body, specs, sizes)
    need = bytes_at_once(done)
    outputs: Any = done.gm.graph.output_node().args[0]
    values = [n.meta["val"] for n in outputs]
    parts, pieces = values[: len(loop.carry)], values[len(loop.carry) :]
    if buffers is None:
        buffers = [Buffer.of(p, y.dim) for p, y in zip(pieces, loop.ys, strict=True)]
    slots = [slot(done, b, p) if b.direct else None for b, p in zip(buffers, pieces, strict=True)]
    accs: list[Any] = [each.dtype for each in loop.carry]
    if accumulators is not None:
        accs = [stand_in(done, real, part) for real, part in zip(accumulators, parts, strict=True)]
    gm = run(BODY_PASSES, done.gm, Accumulation([each.op for each in loop.carry], accs, slots))
    inputs = [n.meta["val"] for n in gm.graph.find_nodes(op="placeholder")]
    call = compiler(gm, inputs, done.trace)
    return Form(call, chooser(done.remaining, specs), done.symbols, done.guard(), list(buffers), need)


def bytes_at_once(done: Specialised) -> int:
    """The peak bytes of a graph's values, at the sizes that it was specialised for."""
    sizes = {ours: number(theirs, done.sizes) for ours, theirs in done.symbols.items()}
    nodes = [n for n in done.gm.graph.nodes if n.op == "call_function"]
    return peak(steps_of(nodes, done.gm.graph.output_node().all_input_nodes), sizes)


def slot(done: Specialised, buffer: Buffer, piece: torch.Tensor) -> torch.Tensor:
    """A fake tensor for a piece's slice of its buffer."""
    return done.trace.empty(piece.shape, buffer.stride(piece.shape), piece.dtype, piece.device)


def stand_in(done: Specialised, real: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """A fake tensor for an accumulator."""
    dims = [expression(s) for s in part.shape]
    stride = [done.trace.size(s, n) for s, n in zip(symbolic_stride(real, dims), real.stride(), strict=True)]
    return done.trace.empty(part.shape, stride, real.dtype, real.device)


def chooser(positions: Sequence[int], specs: Sequence[ArgumentSpec]) -> Callable[[Sequence[Any]], tuple]:
    """A fast selector of the arguments that remain; Python floats become tensors."""
    if any(isinstance(specs[k], Floating) for k in positions):
        return lambda arguments: tuple(as_tensor(arguments[k]) for k in positions)
    if len(positions) == 1:
        return lambda arguments: (arguments[positions[0]],)
    return itemgetter(*positions) if positions else (lambda arguments: ())


def as_tensor(value: Any) -> Any:
    """A Python float as a 0-dim tensor."""
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
