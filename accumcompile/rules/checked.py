"""Validates a rule against its operator's schema before the rule is used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ..ir.torch_api import OpOverload
from .rule import Rule

_FACTOR = re.compile(r"[A-Za-z]\w*")
_ELLIPSES = ("...", "_...")
_REDUCTIONS = (None, "sum", "max", "min", "moments")
_TENSOR = ("Tensor", "Optional[Tensor]")
_LISTS = ("List[Tensor]", "List[Optional[Tensor]]", "Optional[List[Tensor]]")


def check_rule(op: OpOverload, rule: object) -> None:
    """Raise an error if ``rule`` is not a valid rule for ``op``.

    Raises:
        TypeError: ``rule`` is not a Rule.
        ValueError: its words cannot be parsed, or do not fit the operands and results in the schema.
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"{op}: a rule is an accumcompile.Rule, not {rule!r}")
    for mistake in mistakes(op, rule):
        raise ValueError(f'{op} with the rule "{rule.dims}": {mistake}')


def mistakes(op: OpOverload, rule: Rule) -> Iterator[str]:
    """A message for each mistake in a rule."""
    if not rule.dims and rule.align is None:
        yield "it does not say how dimensions line up: give dims or align"
    if rule.dims:
        yield from _in_dims(op, rule)
    yield from _in_groups(op, rule)
    if rule.reduce not in _REDUCTIONS:
        yield f"reduce is {rule.reduce!r}: it can be {', '.join(map(repr, _REDUCTIONS[:-1]))}"
    for name in ("shape_arg", "fill"):
        position = getattr(rule, name)
        if position is not None and not 0 <= position < len(op._schema.arguments):
            yield f"{name} is {position}, but the operator has {len(op._schema.arguments)} arguments"


def _in_dims(op: OpOverload, rule: Rule) -> Iterator[str]:
    if rule.dims.count("->") != 1:
        yield 'one "->" stands between operands and results'
        return
    left, right = rule.words
    for term in (*left, *right):
        yield from _in_term(term)
    taken = {word for term in left for word in term}
    for word in sorted({word for term in right for word in term} - taken - {"_", "_...", "*"}):
        yield f'a result has "{word}", which no operand has: write "_" for a dimension that is not split'
    for word in sorted(set(rule.whole.split()) - taken):
        yield f'whole names "{word}", which no operand has'
    yield from _in_counts(op, left, right)


def _in_term(term: list[str]) -> Iterator[str]:
    shown = " ".join(term)
    for word in term:
        if word not in (*_ELLIPSES, "_", "*") and not _FACTOR.fullmatch(word):
            yield f'"{word}" in "{shown}" is no word: a name, "...", "_", "_..." or "*"'
    if sum(word in _ELLIPSES for word in term) > 1:
        yield f'"{shown}" has two words that stand for any number of dimensions'
    if "*" in term and len(term) > 1:
        yield f'"*" stands alone, not in "{shown}"'
    for word, count in Counter(term).items():
        if count > 1 and _FACTOR.fullmatch(word):
            yield f'"{word}" stands for two dimensions in "{shown}"'


def _in_counts(op: OpOverload, left: list, right: list) -> Iterator[str]:
    taken, given = operand_count(op), len(op._schema.returns)
    if taken is not None and len(left) not in (1, taken):
        yield f"it lines up {len(left)} operands, but the operator takes {taken} tensors"
    if not _has_list(op._schema.returns) and len(right) != given:
        yield f"it has {len(right)} results, but the operator returns {given}"


def _in_groups(op: OpOverload, rule: Rule) -> Iterator[str]:
    count = operand_count(op)
    for group in () if callable(rule.linear) else rule.linear:
        if not isinstance(group, (set, frozenset)) or not all(type(i) is int and i >= 0 for i in group):
            yield f"linear holds sets of positions of tensor operands, not {group!r}"
        elif count is not None and group and max(group) >= count:
            yield f"linear names operand {max(group)}, but the operator takes {count} tensors, counted from 0"


def operand_count(op: OpOverload) -> int | None:
    """The number of tensor operands, optional ones included; None if the operator takes a list of tensors."""
    if _has_list(op._schema.arguments):
        return None
    return sum(str(argument.type) in _TENSOR for argument in op._schema.arguments)


def _has_list(values: list) -> bool:
    return any(str(value.type) in _LISTS for value in values)
