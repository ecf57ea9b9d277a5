"""Registration of rules for the user's own operators."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..ir.torch_api import OpOverload, OpOverloadPacket, decompositions, is_composite, of_custom
from .checked import check_rule
from .rule import Rule


def register_rule(op: Any, rule: Rule) -> None:
    """Register a rule for your own operator, so that it runs in micro-batches.

    Without a rule, an operator takes its operands whole, which is correct but costs memory. A rule is a promise:
    check it first with ``accumcompile.testing.check_rule``. Steps captured before are captured again.

    Args:
        op: an operator with one overload, such as ``torch.ops.mylib.gated``; an overload of it, such as
            ``torch.ops.mylib.gated.default``; or what ``torch.library.custom_op`` returned.
        rule: an ``accumcompile.Rule``, such as ``Rule("... _, _ -> ... _", linear=({1},))``. A second call with an
            equal rule does nothing.

    Raises:
        TypeError: ``op`` is not an operator, or ``rule`` is not a Rule.
        ValueError: the words of the rule cannot be parsed or do not fit the operator's schema; the operator already
            has another rule; or no rule can be used for it, because it mutates its operands, draws random
            numbers, or is decomposed before rules are applied.
    """
    from .table import RULES  # imported late: it builds the whole table

    overload = overload_of(op)
    check_rule(overload, rule)
    if RULES.get(overload) == rule:
        return
    why = _unusable(overload)
    if why:
        raise ValueError(f"{overload}: {why}")
    RULES[overload] = rule
    _forget_captures()


def overload_of(op: Any) -> OpOverload:
    """The overload that ``op`` stands for.

    Raises:
        TypeError: it is not an operator.
        ValueError: it has several overloads.
    """
    op = of_custom(op)
    if isinstance(op, OpOverload):
        return op
    if not isinstance(op, OpOverloadPacket):
        raise TypeError(
            f"{op!r} is no operator: a Python function becomes one by torch.library.custom_op, "
            "and is then torch.ops.<library>.<name>"
        )
    names = op.overloads()
    if len(names) != 1:
        raise ValueError(f"{op} has the overloads {', '.join(names)}: give one, such as {op}.{names[0]}")
    return getattr(op, names[0])


def _unusable(op: OpOverload) -> str | None:
    """Why the operator cannot have a user-defined rule; None if it can."""
    from .table import RULES

    if op in RULES:
        return (
            "it has a rule already. A second one cannot replace it: which of two holds would depend on the order "
            "of imports. Try rules with accumcompile.testing.check_rule, which registers nothing"
        )
    if op._schema.is_mutable:
        return (
            "it changes its operands, and so runs once, on the whole batch. Return the new values instead "
            "(mutates_args=())"
        )
    if torch.Tag.nondeterministic_seeded in op.tags:
        return "it draws random numbers, and so runs once, on the whole batch. Draw outside, and hand the numbers over"
    if _is_taken_apart(op):
        return "it is taken apart into other operators before rules are read: those are split by rules of their own"
    return None


def _is_taken_apart(op: OpOverload) -> bool:
    """Whether the operator is decomposed before capture, so that no captured graph contains it."""
    return op in decompositions() or is_composite(op)


def _forget_captures() -> None:
    """Reset Dynamo: steps captured so far were split without the rule and must be captured again."""
    if "accumcompile.step.compiler" in sys.modules:
        torch.compiler.reset()
