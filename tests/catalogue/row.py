"""What a row of the catalogue is: a small training step, its data, and what splitting it may cost."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Cost:
    """What a step may cost when it is split.

    `reduce` and `gather` hold the text of the user's source line of each barrier, in any order; a line with
    two barriers is there twice. `gathered` is in bytes.
    """

    loops: int
    reduce: Sequence[str] = ()
    gather: Sequence[str] = ()
    gathered: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cost):
            return NotImplemented
        return self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return self.loops, Counter(self.reduce), Counter(self.gather), self.gathered

    def __repr__(self) -> str:
        """The literal to paste into the row."""
        fields = [f"loops={self.loops}"]
        fields += [f"{kind}={_lines(lines)}" for kind in ("reduce", "gather") if (lines := getattr(self, kind))]
        fields += [f"gathered={self.gathered}"] if self.gathered else []
        return f"Cost({', '.join(fields)})"


def _lines(lines: Sequence[str]) -> str:
    """A literal of the lines: `["once"] + ["three times"] * 3`."""
    once = [json.dumps(line) for line, count in Counter(lines).items() if count == 1]
    often = [f"[{json.dumps(line)}] * {count}" for line, count in Counter(lines).items() if count > 1]
    return " + ".join([f"[{', '.join(once)}]"] * bool(once) + often)


@dataclass
class Case:
    """A step that is ready to run: `step(*args, **kwargs)` with the arguments that `arguments` makes.

    `loss_fn` is the step's loss as a function of the batch, where the step is no more than that (see `fit`).
    `options` are what a user would have to declare, such as `batch_dims`.
    """

    step: Callable[..., Any]
    batch: Callable[[int], Call]
    models: dict[str, nn.Module]
    optimizers: list[Any]
    loss_fn: Callable[..., torch.Tensor] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    _initial: list[Any] = field(default_factory=list, repr=False)

    def arguments(self, size: int, update: int) -> Call:
        """The batch of the given update: every call makes new tensors, always of the same values."""
        with seeded(1000 * size + update, self.device, self.dtype):
            return self.batch(size)

    def snapshot(self) -> None:
        self._initial = [_copy(stateful.state_dict()) for stateful in self._stateful()]

    def restore(self) -> None:
        """Back to the snapshot, in place, so that what was captured stays valid."""
        for stateful, state in zip(self._stateful(), self._initial, strict=True):
            stateful.load_state_dict(_copy(state))
        for model in self.models.values():
            model.zero_grad(set_to_none=True)

    def _stateful(self) -> list[Any]:
        return [*self.models.values(), *self.optimizers]


@dataclass(frozen=True)
class Row:
    """A named builder of cases.

    `batches`: the batch size that runs with many micro-batch sizes, and the one that runs with few.
    `exclude`: names of values that cannot be compared, such as "parameter model.0.bias".
    """

    name: str
    builder: Callable[[], Case]
    cost: Cost | None
    batches: tuple[int, int]
    exclude: tuple[str, ...]

    def build(self, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Case:
        """A fresh case; two builds are equal in every bit."""
        with seeded(0, device, dtype):
            case = self.builder()
        case.device, case.dtype = device, dtype
        case.snapshot()
        return case


ROWS: dict[str, Row] = {}


def row(
    cost: Cost | None = None, batches: tuple[int, int] = (12, 13), exclude: tuple[str, ...] = ()
) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Enter the decorated builder in the catalogue under its own name."""

    def enter(builder: Callable[[], Case]) -> Callable[[], Case]:
        name = builder.__name__
        if name in ROWS:
            raise ValueError(f"the catalogue already has a row named {name}")
        ROWS[name] = Row(name, builder, cost, batches, exclude)
        return builder

    return enter


def call(*args: Any, **kwargs: Any) -> Call:
    """The arguments of one call of a step, written as the call is."""
    return args, kwargs


def fit(model: nn.Module, loss_fn: Callable[..., torch.Tensor], batch: Callable[[int], Call]) -> Case:
    """The step that everybody writes, around a loss that is a function of the batch."""
    optimizer = sgd(model)

    def step(*batch):
        optimizer.zero_grad()
        loss = loss_fn(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, batch, {"model": model}, [optimizer], loss_fn)


def sgd(*models: nn.Module) -> torch.optim.Optimizer:
    """Momentum, so that the second update depends on the first gradient as well."""
    return torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.05, momentum=0.9)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with Tanh between them (smooth: no kinks to tie on)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@contextlib.contextmanager
def seeded(seed: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """Factories in here draw from the seed, in this dtype, on the device; nothing outside notices."""
    default = torch.get_default_dtype()
    drawing = [torch.cuda.current_device()] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=drawing), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


def _copy(state: Any) -> Any:
    """A deep copy that also takes tensors that belong to an autograd graph."""
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, state
    )
