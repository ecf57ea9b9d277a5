"""A small model, its data, and a comparison with the plain step: for tests of how a step comes in."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateError, AccumulateWarning, accumulate
from accumcompile.session.session import Session


class Net(nn.Module):
    """Two layers: a class with a forward of its own, which Dynamo can capture by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8, dtype=torch.float64)
        self.second = nn.Linear(8, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def layer() -> nn.Linear:
    """A class of torch's own, which Dynamo never captures by itself."""
    torch.manual_seed(0)
    return nn.Linear(4, 3, dtype=torch.float64)


def sequential() -> nn.Sequential:
    """The same model as a container of torch's own."""
    model = net()
    return nn.Sequential(model.first, nn.ReLU(), model.second)


def data(batch: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (batch,), generator=generator)


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def update(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor, scheduler: Any = None) -> torch.Tensor:
    """A whole training step: gradients, clipping, the optimizer, the scheduler if there is one."""
    optimizer.zero_grad()
    loss = plain(model, x, y)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    return loss


def broken(model: Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`plain` with a graph break in the forward, which the batch size crosses as an int of its own."""
    rows = x.shape[0]
    hidden = model.first(x)
    torch._dynamo.graph_break()
    loss = F.cross_entropy(model.second(torch.relu(hidden).view(rows, -1)), y)
    loss.backward()
    return loss.detach()


def eager(step: Callable[..., Any], **options: Any) -> Any:
    """``step`` decorated, without a compiler."""
    return accumulate(**{"steps": 4, "lowering": "eager"} | options)(step)


def assert_equal(step: Any, model: nn.Module, *args: Any) -> None:
    """One call of a decorated step gives the plain step's result and gradients."""
    reference = copy.deepcopy(model)
    expected = step.fn(reference, *args)
    result = step(model, *args)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def runs(step: Any, *args: Any, session: Session | None = None) -> list[tuple[int, int]]:
    """(batch, micro-batches) of every graph of ours that a call runs; ``session`` where ``step`` is not decorated."""
    with (session or step.session).journal.recording() as recorded:
        step(*args)
    return [(run.split.batch, len(run.split)) for run in recorded]


def refused(step: Any, *args: Any) -> str:
    """The text of the error that a call raises."""
    with pytest.raises(AccumulateError) as caught:
        step(*args)
    return text(caught.value)


def warned(step: Any, model: nn.Module, *args: Any) -> list[str]:
    """The texts of a call's warnings; its result is the full batch's all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_equal(step, model, *args)
    return [text(m) for m in ours(caught) if m.code != "AC033"]  # what is held for the full batch: another test's


def ours(caught: Iterable[warnings.WarningMessage]) -> list[AccumulateWarning]:
    """Our warnings among those that were given: the first to import some part of torch hears of its deprecations."""
    return [w.message for w in caught if isinstance(w.message, AccumulateWarning)]


def text(error: object) -> str:
    """A message without the folders and numbers of its lines."""
    return re.sub(r"(?:\S*/)?(\w+\.py):\d+", r"\1:N", str(error))
