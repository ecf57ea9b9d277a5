"""The long grid: every row of the catalogue through Inductor, and at every number of micro-batches."""

import pytest
import torch
from catalogue.compare import beyond, differences, run
from steps import CATALOGUE

from accumcompile import accumulate

pytestmark = pytest.mark.slow
rows = pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)


@pytest.fixture(autouse=True)
def compiled_anew():
    yield
    torch._dynamo.reset()


def wrong(row, case, step, size):
    """The values that differ from the eager full batch's."""
    full = row.build()
    expected = run(full, full.step, size)
    case.restore()
    return beyond(differences(expected, run(case, step, size), row.exclude))


@rows
@pytest.mark.inductor
def test_through_inductor(row):
    case = row.build()
    step = accumulate(steps=3, **case.options)(case.step)
    assert not wrong(row, case, step, row.batches[0])


@rows
def test_at_every_number_of_micro_batches(row):
    case = row.build()
    step = accumulate(steps=1, lowering="eager", **case.options)(case.step)
    failures = {}
    for size in row.batches:
        for steps in range(1, size + 2):
            step.steps = steps
            if found := wrong(row, case, step, size):
                failures[size, steps] = found
    assert not failures
