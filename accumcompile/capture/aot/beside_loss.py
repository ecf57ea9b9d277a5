"""Outputs beside the loss stay differentiable, at no cost unless they are differentiated.

The loss's road, fused or two-pass, computes only the loss's gradients. The other outputs are returned detached and
reattached to the autograd graph here; a backward that reaches them, before or after the loss's, runs the two-pass
road of the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


def reattached(
    alone: Callable, beside: Callable, positions: Sequence[int], changing: Sequence[int], reads: Sequence[int]
) -> Callable:
    """``alone``, whose outputs at ``positions`` are differentiable through ``beside``, which returns only them.

    ``changing`` are the positions of inputs that the graph, or the user later, may overwrite: ``beside`` gets copies of
    the old values. ``reads`` are the inputs that it depends on: those not copied may not change before its backward.
    """

    def run(*inputs: Any) -> list[Any]:
        before = {i: _copy(inputs[i]) for i in changing}
        task = _Task(beside, [before.get(i, value) for i, value in enumerate(inputs)], set(reads), _Draws(inputs))
        results = list(alone(*inputs))
        tensors = [v for v in inputs if isinstance(v, torch.Tensor)]
        attached = _Reattach.apply(task, *(results[i] for i in positions), *tensors)
        for i, value in zip(positions, attached, strict=True):
            results[i] = value
        return results

    return run


def _copy(value: torch.Tensor) -> torch.Tensor:
    """A copy outside the autograd graph."""
    return value.detach().clone().requires_grad_(value.requires_grad)


@dataclass
class _Task:
    """What the backward of the reattached outputs needs."""

    beside: Callable
    inputs: list[Any]
    reads: set[int]
    draws: _Draws

    def release(self) -> list[torch.Tensor]:
        """Hand out the tensors that may not change until the backward; the task itself no longer holds them."""
        tensors = []
        for i, value in enumerate(self.inputs):
            if i in self.reads and isinstance(value, torch.Tensor):
                tensors.append(value)
                self.inputs[i] = None
        return tensors

    def restored(self, released: Sequence[torch.Tensor]) -> list[Any]:
        """All inputs, with the released tensors back in their places."""
        saved = iter(released)
        tensors = {i for i in self.reads if self.inputs[i] is None}
        return [next(saved) if i in tensors else v for i, v in enumerate(self.inputs)]


class _Draws:
    """The random generators' states before the forward, so that running it again draws the same numbers."""

    def __init__(self, inputs: Sequence[Any]):
        devices = {v.device for v in inputs if isinstance(v, torch.Tensor) and v.device.type == "cuda"}
        self.devices = [d.index for d in devices]
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(d) for d in self.devices]

    def again(self, run: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            return run()


class _Reattach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, task, *values):
        tensors = sum(isinstance(v, torch.Tensor) for v in task.inputs)
        outputs = values[: len(values) - tensors]
        ctx.task, ctx.outputs, ctx.tensors = task, len(outputs), tensors
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*task.release())
        return tuple(o.detach() for o in outputs)  # no views: they may be edited in place

    @staticmethod
    def backward(ctx, *gradients):
        before = (None,) * (1 + ctx.outputs)
        if all(g is None for g in gradients):
            return before + (None,) * ctx.tensors
        inputs = ctx.task.restored(ctx.saved_tensors)
        return before + tuple(_gradients(ctx.task, inputs, gradients))


def _gradients(task: _Task, inputs: list[Any], gradients: Sequence[Any]) -> list[Any]:
    """Gradients of the tensor inputs, by the two-pass road."""
    leaves = [v.detach().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v for v in inputs]
    with torch.enable_grad():
        results = task.draws.again(lambda: task.beside(*leaves))
    pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None]
    wanted = [v for v in leaves if isinstance(v, torch.Tensor) and v.requires_grad]
    computed = iter(torch.autograd.grad([r for r, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
    return [next(computed) if v.requires_grad else None for v in leaves if isinstance(v, torch.Tensor)]
