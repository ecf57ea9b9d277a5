"""Every row of the catalogue, split: equal to the full batch, and at no more than its declared cost."""

import linecache

import pytest
import torch
from catalogue.compare import TOLERANCE, beyond, differences, run
from catalogue.row import Cost
from steps import CATALOGUE

from accumcompile import accumulate

MANY_STEPS, FEW_STEPS = (1, 2, 3, 7, 12, 15), (3, 7)
COST_STEPS = 3
DEFAULT_TORCH = "2.13."  # another torch may trace a step to other ops, and so to other barriers


@pytest.fixture(scope="module", params=CATALOGUE.values(), ids=CATALOGUE)
def row(request):
    """One row at a time: both of its tests share the captures of one decorated step."""
    yield request.param
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def case(row):
    return row.build()


@pytest.fixture(scope="module")
def accumulated(case):
    return accumulate(steps=COST_STEPS, lowering="eager", **case.options)(case.step)


def test_equal_to_the_full_batch(row, case, accumulated):
    failures = []
    for size, counts in zip(row.batches, (MANY_STEPS, FEW_STEPS), strict=True):
        full = row.build()
        expected = run(full, full.step, size)
        for steps in counts:
            case.restore()
            accumulated.steps = steps
            wrong = beyond(differences(expected, run(case, accumulated, size), row.exclude))
            failures += [f"B = {size}, steps = {steps}, {name}: {wrong[name]:.1e}" for name in wrong]
    assert not failures, f"relative differences above {TOLERANCE:.0e}:\n" + "\n".join(failures)


@pytest.mark.skipif(not torch.__version__.startswith(DEFAULT_TORCH), reason=f"costs hold for {DEFAULT_TORCH}")
def test_costs_what_it_declares(row, case, accumulated):
    case.restore()
    accumulated.steps = COST_STEPS
    args, kwargs = case.arguments(row.batches[0], update=0)
    actual = cost_of(accumulated.explain(*args, **kwargs))
    assert row.cost == actual, f"{row.name} declares {row.cost}, and costs\n{actual}"


def cost_of(report) -> Cost:
    lines = {"reduce": [], "gather": []}
    for barrier in report.barriers:
        lines[barrier.kind].append(source_line(barrier.where))
    gathered = sum(barrier.bytes for barrier in report.barriers if barrier.kind == "gather")
    return Cost(len(report.loops), **lines, gathered=gathered)


def source_line(where: str) -> str:
    """The text at "file:line"."""
    file, _, number = where.rpartition(":")
    return linecache.getline(file, int(number)).strip()
