"""Runs a program: computes the split from a call's inputs, and gives results the layout that was traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from ..ir.binding import number, symbol_reads
from ..ir.loop import Split
from ..ir.operands import outputs
from ..ir.sizes import expression
from ..ir.torch_api import is_unbacked
from ..planning.schedule import Schedule
from ..rules.table import is_impure
from .output_views import memory_of, output_views


class Runner:
    """A compiled graph: called with a list of inputs, which it empties (AOTAutograd's boxed convention)."""

    def __init__(
        self,
        program: Callable,
        gm: GraphModule,
        plan: Schedule,
        split: Callable[[int, int], Split],
        ran: Callable[[dict, Split], None],
        owned_from: int | None = None,
    ):
        self._boxed_call = True  # on the instance: Dynamo's wrappers copy only its attributes
        self.program = program
        self.split = split  # of a batch and its granule
        self.ran = ran  # called with the sizes and the split of each call
        propagation = plan.propagation
        self.symbol, self.granule = propagation.batch.symbol, propagation.granule()
        self.reads = symbol_reads(gm.graph.find_nodes(op="placeholder"))
        self.draws = _Generators.of(gm)
        self.results = [_Result.of(o) for o in plan.outputs]
        self.views = list(output_views(gm))
        self.copied = shared(outputs(gm), owned_from) if owned_from is not None else []

    def __call__(self, arguments: list) -> list:
        sizes = {symbol: read(arguments) for symbol, read in self.reads}
        batch = sizes.get(self.symbol, 1)
        split = self.split(batch, self.granule)
        self.ran(sizes, split)
        given = list(arguments)
        arguments.clear()
        with self.draws.kept_on_success():
            values = self.program(split, *given)
        del given
        results = list(zip(self.results, values, strict=True))
        for result, value in results:
            sizes |= result.sizes_of(value) if result is not None else {}
        finished = [result.finish(value, sizes) if result is not None else value for result, value in results]
        for view in self.views:
            finished[view.position] = view.of(finished, sizes)
        for position in self.copied:
            finished[position] = finished[position].clone(memory_format=torch.contiguous_format)
        return finished


def shared(outputs: Sequence[Any], first: int) -> list[int]:
    """Positions of the outputs, from ``first`` on, that alias an input or an earlier output, or are broadcast."""
    positions, seen = [], set()
    for position, output in enumerate(outputs):
        if isinstance(output, Node):
            memory = memory_of(output)
            broadcast = any(n.target is torch.ops.aten.expand.default for n in memory)
            if position >= first and (broadcast or memory[-1].op != "call_function" or memory[-1] in seen):
                positions.append(position)
            seen.add(memory[-1])
    return positions


class _Generators:
    """The random generators that a graph draws from, whose state is restored if the graph raises."""

    def __init__(self, devices: set[torch.device]):
        self.devices = devices

    @classmethod
    def of(cls, gm: GraphModule) -> _Generators:
        """The generators of the devices on which some node draws."""
        values = [n.meta.get("val") for n in gm.graph.nodes if n.op == "call_function" and is_impure(n)]
        return cls({v.device for v in values if isinstance(v, torch.Tensor)})

    @contextmanager
    def kept_on_success(self) -> Iterator[None]:
        """Restore the generators if the block raises."""
        before = {d: _generator(d).get_state() for d in self.devices}
        try:
            yield
        except BaseException:
            for device, state in before.items():
                _generator(device).set_state(state)
            raise


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


class _Result:
    """The layout of an output: exactly the traced strides, since later code is compiled for them."""

    def __init__(self, shape: tuple, strides: tuple, contiguous: bool):
        self.strides, self.contiguous = strides, contiguous
        symbols = {d: s for d, s in enumerate(shape) if isinstance(s, sympy.Symbol)}
        self.data_sizes = {d: s for d, s in symbols.items() if is_unbacked(s)}

    @classmethod
    def of(cls, output: Any) -> _Result | None:
        value = output.meta.get("val") if isinstance(output, Node) else None
        if not isinstance(value, torch.Tensor):
            return None
        shape, strides = (tuple(expression(s) for s in each) for each in (value.shape, value.stride()))
        return cls(shape, strides, _is_contiguous(value))

    def sizes_of(self, value: torch.Tensor) -> dict:
        """The values of a result's data-dependent sizes."""
        return {symbol: value.shape[d] for d, symbol in self.data_sizes.items()}

    def finish(self, value: torch.Tensor, sizes: dict) -> torch.Tensor:
        """The value with the strides that were traced."""
        if not (self.contiguous and value.is_contiguous()):
            value = _restrided(value, tuple(number(s, sizes) for s in self.strides))
        return _no_view(value) if value._is_view() else value


def _is_contiguous(value: torch.Tensor) -> bool:
    expected: Any = 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        if expression(stride) != expression(expected):
            return False
        expected = expected * size
    return True


def _no_view(value: torch.Tensor) -> torch.Tensor:
    """The same memory as a non-view: autograd forbids in-place changes to a view from a multi-output function."""
    return value.new_empty(0).set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())


def _restrided(value: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """``value`` with these strides, copied if its own differ (those of dimensions of size 1 do not count).

    Along a stride of 0 all elements share memory, which is written once and then expanded.
    """
    same = all(a == b or size <= 1 for a, b, size in zip(value.stride(), strides, value.shape, strict=True))
    if same or value.numel() == 0:
        return value
    once = value
    for dim, stride in enumerate(strides):
        once = once.narrow(dim, 0, 1) if stride == 0 else once
    copy = torch.empty_strided(once.shape, strides, dtype=value.dtype, device=value.device)
    return copy.copy_(once).expand(value.shape)
