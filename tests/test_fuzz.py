"""Random steps of fixed seeds: equal to the full batch, hardly ever refused, most of them with a lower peak."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

import pytest
import torch
from fuzz.check import Outcome, check
from fuzz.report import LEAST_LOWER, MOST_REFUSED, Summary
from fuzz.search import smallest, step_of

STEPS, MOST_OPS = 24, 12  # longer steps are for `make fuzz`
COMPILED, MOST_COMPILED_OPS = 10, 5  # of each half; 5 s of a core each


def _outcomes(lowering: str, most: int, first: int = 0) -> Iterator[tuple[int, Outcome]]:
    """Of every seed that makes a step whose result does not hang on rounding. Compiled, it runs at one batch size."""
    for number in count(first):
        step = step_of(number, most)
        if step is not None and lowering == "inductor":
            step = replace(step, runs=step.runs[:1])
        outcome = check(step, lowering) if step is not None else None
        if outcome is not None and not outcome.skipped:
            yield number, outcome


def _without_failures(steps: int, lowering: str = "eager", most: int = MOST_OPS, first: int = 0) -> Summary:
    summary = Summary(dict(islice(_outcomes(lowering, most, first), steps)))
    torch._dynamo.reset()
    failures = [f"seed {n}:\n{o.failure}\n{o.program.source()}" for n, o in summary.failures.items()]
    assert not failures, "\n\n".join(failures)
    return summary


@pytest.mark.inductor
@pytest.mark.parametrize("first", [0, 1000])
def test_random_steps_through_inductor(first):
    summary = _without_failures(COMPILED, "inductor", MOST_COMPILED_OPS, first)
    assert summary.refused_share <= MOST_REFUSED, summary.refused


def test_random_steps():
    summary = _without_failures(STEPS)
    assert summary.refused_share <= MOST_REFUSED, summary.refused
    assert summary.lower_share >= LEAST_LOWER, summary.kinds()


def test_a_step_that_fails_is_made_small():
    number = next(n for n in count() if "cumulative" in step_of(n).kinds and len(step_of(n).ops) > 15)
    small = smallest(number, lambda program: "cumulative" in program.kinds)
    assert "cumulative" in small.kinds
    assert len(small.ops) <= 6
