"""Outputs beside the loss stay differentiable, at no cost as long as no one differentiates them.

The fused road keeps the loss's gradients and nothing else. Its other outputs are returned detached and put back on
the tape here; a backward that really comes to them runs the two-pass road of the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def reattached(fused: Callable, whole: Callable, positions: Sequence[int], mutated: Sequence[int]) -> Callable:
    """``fused``, whose outputs at ``positions`` are differentiable through ``whole``.

    ``mutated`` are the positions of inputs that the graph gives a new value: ``whole`` must see the old one.
    """

    def run(*inputs: Any) -> list[Any]:
        before = {i: inputs[i].clone() for i in mutated}
        draws = _Draws(inputs)
        results = list(fused(*inputs))
        seen = [before.get(i, value) for i, value in enumerate(inputs)]
        tensors = [v for v in seen if isinstance(v, torch.Tensor)]
        task = (whole, seen, positions, draws)
        attached = _Reattach.apply(task, len(positions), *(results[i] for i in positions), *tensors)
        for i, value in zip(positions, attached, strict=True):
            results[i] = value
        return results

    return run


class _Draws:
    """The random generators as they were before the forward, so that running it again draws the same numbers."""

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
    def forward(ctx, task, count, *values):
        outputs, tensors = values[:count], values[count:]
        ctx.task, ctx.count = task, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(o.view_as(o) for o in outputs)

    @staticmethod
    def backward(ctx, *gradients):
        whole, seen, positions, draws = ctx.task
        tensors = iter(ctx.saved_tensors)
        inputs = [next(tensors) if isinstance(v, torch.Tensor) else v for v in seen]
        nothing = (None,) * (2 + ctx.count)
        if all(g is None for g in gradients):
            return nothing + (None,) * len(ctx.saved_tensors)
        found = iter(_gradients(whole, inputs, positions, draws, gradients))
        return nothing + tuple(next(found) for v in seen if isinstance(v, torch.Tensor))


def _gradients(whole, inputs, positions, draws, gradients) -> list[Any]:
    """Gradients of the tensor inputs, by the two-pass road."""
    leaves = [v.detach().requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v for v in inputs]
    with torch.enable_grad():
        results = draws.again(lambda: whole(*leaves))
    pairs = [(results[i], g) for i, g in zip(positions, gradients, strict=True) if g is not None]
    wanted = [v for v in leaves if isinstance(v, torch.Tensor) and v.requires_grad]
    found = iter(torch.autograd.grad([r for r, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
    return [next(found) if v.requires_grad else None for v in leaves if isinstance(v, torch.Tensor)]
