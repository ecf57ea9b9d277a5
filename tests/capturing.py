"""A step run twice from equal states, plain and in micro-batches: for the tests of capture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import small
import torch
from torch import nn
from torch.utils import _pytree as pytree

from accumcompile import accumulate
from accumcompile.session.journal import Run
from accumcompile.session.session import Session
from accumcompile.step.backend import session_of
from accumcompile.testing import gradients, max_rel_diff, rel_diff, state

TOLERANCE = 1e-10


@dataclass
class Ran:
    """A step in micro-batches, the state it worked on, and every run of a graph of ours so far."""

    step: Callable[..., Any]
    session: Session
    given: tuple[Any, ...]
    runs: list[Run]

    @property
    def roads(self) -> list[str]:
        """The road of each run, in order."""
        return [run.plan.road for run in self.runs]

    @property
    def plans(self) -> int:
        """How many different compiled graphs ran."""
        return len({id(run.plan) for run in self.runs})

    @property
    def gathered(self) -> list[str]:
        """The lines at which something of the batch was gathered, or computed on the full batch."""
        plans = [run.plan for run in self.runs]
        barriers = [b.value.code for plan in plans for b in plan.barriers if b.kind == "gather"]
        return barriers + [fact.code for plan in plans for fact in plan.whole]


def decorated(step: Callable[..., Any], **options: Any) -> tuple[Any, Session]:
    """The step in micro-batches, by the decorator."""
    ours = accumulate(**{"steps": 3, "lowering": "eager"} | options)(step)
    return ours, ours.session


def by_name(step: Callable[..., Any], **options: Any) -> tuple[Any, Session]:
    """The step in micro-batches, as a backend that torch.compile finds by name."""
    given = {"steps": 3, "lowering": "eager"} | options
    return torch.compile(step, backend="accumcompile", options=given), session_of(given)


def same(
    step: Callable[..., Any],
    *given: Any,
    sizes: tuple[int, ...] = (12, 7),
    data: Callable[..., tuple] = small.data,
    by: Callable[..., tuple[Any, Session]] = decorated,
    **options: Any,
) -> Ran:
    """``step(*given, *batch)``, once for each of ``sizes``: all that can be seen equals the full batch's.

    ``given`` are models and optimizers; the plain step works on copies of them.
    """
    reference = copy.deepcopy(given)
    ours, session = by(step, **options)
    with session.journal.recording() as runs:
        for seed, size in enumerate(sizes):
            expected = step(*reference, *data(size, seed))
            actual = ours(*given, *data(size, seed))
            assert_same((expected, reference), (actual, given))
    return Ran(ours, session, given, runs)


def assert_same(expected: Any, actual: Any) -> None:
    """Equal values: tensors, and the parameters, buffers and gradients of modules."""
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True):
        if isinstance(a, nn.Module):
            assert max_rel_diff(gradients(a), gradients(b)) < TOLERANCE
            assert max_rel_diff(state(a), state(b)) < TOLERANCE
        elif isinstance(a, (torch.Tensor, float)):
            assert rel_diff(a, b) < TOLERANCE


def frames() -> int:
    """How many frames Dynamo has been asked to capture."""
    return torch._dynamo.utils.counters["frames"]["total"]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Momentum: the second update depends on the first gradient."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
