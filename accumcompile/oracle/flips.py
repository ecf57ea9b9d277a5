"""Wrong rules, made from right ones, to test the oracle itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from ..rules.rule import Alignment, Rule

_OTHERS = {"sum": ("max", "min"), "max": ("min",), "min": ("max",)}  # a sum needs linearity as well


def flips(rule: Rule, alignments: Sequence[Alignment]) -> Iterator[tuple[str, Rule]]:
    """Each way to make one claim of ``rule`` wrong, with a name; some are still right.

    ``alignments`` are the rule's alignments on samples; what none of them claims is not changed.
    """
    if rule.whole:
        yield "whole dropped", replace(rule, whole="")
    yield from _linear(rule, alignments)
    yield from _words(rule)
    if rule.reduce in _OTHERS and any(map(_contracts, alignments)):
        yield from ((f"reduces by {op}", replace(rule, reduce=op)) for op in _OTHERS[rule.reduce])
    if not rule.moves and not rule.factory:
        yield "moves data only", replace(rule, moves=True)


def _contracts(alignment: Alignment) -> bool:
    """Whether some factor is in an operand and not in every result."""
    taken = {f for dims in alignment.operands for dim in dims for f in dim}
    return any(not taken <= {f for dim in dims for f in dim} for dims in alignment.results)


def _linear(rule: Rule, alignments: Sequence[Alignment]) -> Iterator[tuple[str, Rule]]:
    """Claim linearity in one more operand, or in all together."""
    operands = max((len(a.operands) for a in alignments), default=0)
    groups = [frozenset({i}) for i in range(operands)] + ([frozenset(range(operands))] if operands > 1 else [])
    for group in groups:
        if not all(group in a.linear for a in alignments):
            yield f"linear in {sorted(group)}", _claiming(rule, group)


def _claiming(rule: Rule, group: frozenset[int]) -> Rule:
    return replace(rule, linear=lambda facts: (*rule.groups(facts), group))


def _words(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Exchange two factors of a result; name a dimension that may not be split."""
    left, _, right = rule.dims.partition("->")
    first, *others = right.split(",")
    names = [w for w in first.split() if w[0] not in "._"]
    for a, b in combinations(dict.fromkeys(names), 2):
        swapped = " ".join({a: b, b: a}.get(w, w) for w in first.split())
        yield f"{a} and {b} exchanged", replace(rule, dims=f"{left}->{','.join([swapped, *others])}")
    if "_" in left.split() + [w for o in left.split(",") for w in o.split()] and "_" in first.split():
        named = [_named(term) for term in left.split(",")], [_named(term) for term in right.split(",")]
        yield "a whole dimension split", replace(rule, dims=f"{','.join(named[0])}->{','.join(named[1])}")


def _named(term: str) -> str:
    """A term with its first ``_`` named."""
    words = term.split()
    return " ".join("z" if w == "_" and i == words.index("_") else w for i, w in enumerate(words))
