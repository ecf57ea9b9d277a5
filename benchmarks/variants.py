"""One training update, written three ways over the same weights and the same batch."""

from collections.abc import Callable

import torch
from models import Case, Problem
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

Step = Callable[[], Tensor]


def make_step(case: Case, variant: str, device: str) -> Step:
    """The update as a function of nothing; what it returns is the loss."""
    torch.manual_seed(0)
    problem = case.build()
    model, batch = problem.model.to(device), tuple(tensor.to(device) for tensor in problem.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return VARIANTS[variant](Problem(model, problem.loss, batch), optimizer, case.steps)


def full(problem: Problem, optimizer: torch.optim.Optimizer, steps: int) -> Step:
    """The whole batch at once."""
    model, batch = problem.model, problem.batch
    loss_of = torch.compile(problem.loss, dynamic=False)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def hand(problem: Problem, optimizer: torch.optim.Optimizer, steps: int) -> Step:
    """The loop written by hand; dividing by `steps` is right for plain means over equal micro-batches."""
    model, batch = problem.model, problem.batch
    loss_of = torch.compile(lambda *args: problem.loss(*args) / steps, dynamic=False)

    def step() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=batch[0].device)
        for part in zip(*(tensor.chunk(steps) for tensor in batch), strict=True):
            loss = loss_of(model, *part)
            loss.backward()
            total += loss.detach()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total

    return step


def ours(problem: Problem, optimizer: torch.optim.Optimizer, steps: int, **options: str) -> Step:
    """The step for the whole batch, and a decorator."""
    from accumcompile import accumulate  # the other two are measured without it

    model, batch, loss_of = problem.model, problem.batch, problem.loss

    @accumulate(steps=steps, **options)
    def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *batch: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return lambda: train_step(model, optimizer, *batch)


VARIANTS = {"full": full, "hand": hand, "ours": ours}
