"""Comparing values, by the relative difference that tests and `verify` use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .verify.differences import largest, rel_diff, wide

__all__ = ["check_rule", "gradients", "largest", "max_rel_diff", "rel_diff", "rel_diffs", "state", "wide"]

Value = torch.Tensor | None


def rel_diffs(expected: Mapping[str, Value], actual: Mapping[str, Value]) -> dict[str, float]:
    """Each value's difference, relative to one scale: the largest magnitude among all of `expected`.

    Meant for the gradients, or the parameters, of one model. A value that only one side has differs infinitely.
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
    """Check a rule against samples of its operator, without registering it.

    For every sample, each dimension that can be the batch is cut into uneven micro-batches, and each set of
    operands in which the rule claims linearity is split into the parts of a sum: the results on the pieces,
    combined as the rule says, must be the operator's result on the whole.

    Args:
        op: the operator, as ``accumcompile.register_rule`` takes it, such as ``torch.ops.mylib.norm``.
        rule: its ``accumcompile.Rule``.
        samples: calls, each a tuple of arguments, with keyword arguments last in a dict. A function in front of
            the arguments is called in place of the operator: for a call that computes an argument from a size,
            such as ``x.shape[0]``. Use double precision and dimensions above 1, some of different sizes and some
            of equal size: otherwise a rule that confuses two dimensions may pass by accident.

    Raises:
        AssertionError: the rule is wrong, or covers no sample. The message names each placement that does not
            hold, and the sample's shapes.
        TypeError, ValueError: ``op`` is not an operator or ``rule`` does not fit it, as in
            ``accumcompile.register_rule``.
    """
    from .oracle.rules import counterexamples
    from .rules import checked
    from .rules.register import overload_of

    overload = overload_of(op)
    checked.check_rule(overload, rule)
    wrong = list(counterexamples(overload, rule, samples))
    assert not wrong, "\n".join(wrong)
