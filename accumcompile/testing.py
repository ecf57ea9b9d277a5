"""Comparing values: the difference that tests and `verify` mean when they say "equal"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

Value = torch.Tensor | None


def rel_diff(expected: Any, actual: Any, scale: float | None = None) -> float:
    """The largest |expected - actual| over the largest |expected|, or over `scale`.

    Equal infinities and NaNs in the same places are no difference; None equals None; another shape is
    infinitely far away.
    """
    if expected is None or actual is None:
        return 0.0 if expected is actual else math.inf
    a, b = wide(expected), wide(actual)
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    furthest = torch.where(same, 0.0, (a - b).abs()).max().item()
    if furthest == 0.0:
        return 0.0
    scale = largest([a]) if scale is None else scale
    return furthest / scale if scale > 0 and math.isfinite(furthest) else math.inf


def largest(values: Iterable[Any]) -> float:
    """The largest finite |value|."""
    found = 0.0
    for value in values:
        sizes = torch.zeros(0) if value is None else wide(value).abs()
        sizes = sizes[sizes.isfinite()]
        found = max(found, sizes.max().item() if sizes.numel() else 0.0)
    return found


def wide(value: Any) -> torch.Tensor:
    """`value` as a dense tensor in double precision, in main memory."""
    tensor = torch.as_tensor(value).detach().cpu()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def rel_diffs(expected: Mapping[str, Value], actual: Mapping[str, Value]) -> dict[str, float]:
    """The difference of each value, over one scale: the largest number among all of `expected`.

    Meant for the gradients, or the parameters, of one model. A value that only one side has is infinitely
    far away.
    """
    scale = largest(expected.values())
    names = {**expected, **actual}
    both = expected.keys() & actual.keys()
    return {name: rel_diff(expected[name], actual[name], scale) if name in both else math.inf for name in names}


def max_rel_diff(expected: Mapping[str, Value], actual: Mapping[str, Value]) -> float:
    """The largest of `rel_diffs`."""
    return max(rel_diffs(expected, actual).values(), default=0.0)


def gradients(module: torch.nn.Module) -> dict[str, Value]:
    """A copy of each parameter's gradient, by name."""
    return {name: None if p.grad is None else p.grad.detach().clone() for name, p in module.named_parameters()}


def state(module: torch.nn.Module) -> dict[str, Value]:
    """A copy of each parameter and buffer, by name."""
    values = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().clone() for name, value in values}


def check_rule(op: Any, rule: Any, samples: Iterable[tuple]) -> None:
    """Prove a rule on samples of its operator; nothing is registered.

    For every sample, each dimension that can be the batch is cut into uneven micro-batches, and each set of
    operands in which the rule claims to be linear is given as the parts of a sum: what the rule makes of the
    pieces must be the operator's own result.

    Args:
        op: the operator, as ``accumcompile.register_rule`` takes it, such as ``torch.ops.mylib.norm``.
        rule: its ``accumcompile.Rule``.
        samples: calls, each a tuple of arguments, named ones last in a dict. A function in front of the
            arguments is called in the operator's place: for one that holds a size, such as ``x.shape[0]``.
            Take tensors in double precision, with dimensions above 1: some of different sizes, and some of
            one size, or a rule that confuses two dimensions is right by accident.

    Raises:
        AssertionError: the rule is wrong, or covers no sample. It names each placement that does not hold, and
            the sample's shapes.
        TypeError, ValueError: as ``accumcompile.register_rule``, for what is no operator or no rule of it.
    """
    from .oracle.rules import counterexamples
    from .rules.checked import check_rule
    from .rules.register import overload_of

    overload = overload_of(op)
    check_rule(overload, rule)
    found = list(counterexamples(overload, rule, samples))
    assert not found, "\n".join(found)
