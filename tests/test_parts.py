"""What terms on part of the batch cost: the batch is never held whole, forwards or backwards."""

import catalogue.parts  # noqa: F401  (enters its rows)
import pytest
import torch
from catalogue.row import ROWS
from fuzz.peak import measured

from accumcompile import accumulate

PARTS = [row for row in ROWS.values() if row.builder.__module__ == "catalogue.parts"]


@pytest.mark.parametrize("row", PARTS, ids=lambda row: row.name)
def test_activations_of_a_micro_batch(row):
    torch._dynamo.reset()
    case = row.build()
    full, split = case.step, accumulate(steps=8, lowering="eager")(case.step)
    split(*case.arguments(256, update=0)[0])  # the capture
    assert peak(case, split) <= 0.30 * peak(case, full)


def peak(case, step):
    case.restore()
    arguments, _ = case.arguments(256, update=1)
    parameters = [p for model in case.models.values() for p in model.parameters()]
    with measured(lambda: [p.grad for p in parameters]) as live:
        step(*arguments)
    return live.bytes
