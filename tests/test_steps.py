"""The catalogue itself, before anything is compiled: a row that trains nothing would prove nothing."""

import pytest
import torch
from catalogue.compare import beyond, differences, run
from catalogue.row import Cost
from steps import CATALOGUE

rows = pytest.mark.parametrize("row", CATALOGUE.values(), ids=CATALOGUE)


def eager(row, size):
    case = row.build()
    return run(case, case.step, size)


@rows
def test_two_builds_are_equal_bit_for_bit(row):
    for size in row.batches:
        assert not beyond(differences(eager(row, size), eager(row, size)), tolerance=0.0)


@rows
def test_restore_undoes_both_updates(row):
    case = row.build()
    first = run(case, case.step, row.batches[0])
    case.restore()
    assert not beyond(differences(first, run(case, case.step, row.batches[0])), tolerance=0.0)


@rows
def test_every_value_is_finite_and_the_models_learn(row):
    for size in row.batches:
        history = eager(row, size)
        for value in (value for update in history for value in update):
            if value.tensor is not None and not value.name.startswith("input"):
                assert value.tensor.isfinite().all(), f"{value.name} is not finite"
        gradients = [v.tensor for v in history[-1] if v.name.startswith("gradient ") and v.tensor is not None]
        assert any(gradient.abs().max() > 1e-6 for gradient in gradients), "no gradient to compare"
        moved = beyond(differences(history[:1], history[1:]), tolerance=1e-6)
        assert any("parameter" in name for name in moved), "the step trains nothing"


def test_barriers_are_compared_as_a_multiset():
    cost = Cost(loops=2, reduce=["a", "b", "a"])
    assert cost == Cost(loops=2, reduce=["a", "a", "b"])
    assert cost != Cost(loops=2, reduce=["a", "b"])
    assert cost != Cost(loops=2, reduce=["a", "b"], gather=["a"])
    assert cost != Cost(loops=3, reduce=["a", "a", "b"])


@pytest.mark.parametrize("lines", [[], ['x["a"]'], ["a", "b"], ["a", "a"], ["a", "b", "a", "c"]])
def test_a_cost_prints_as_the_literal_to_paste(lines):
    cost = Cost(loops=2, reduce=lines, gather=lines[:1], gathered=96)
    assert eval(repr(cost)) == cost


def test_differences_name_what_differs_and_excuse_no_integer():
    case = CATALOGUE["accuracy_returned"].build()
    expected = run(case, case.step, 12)
    case.restore()
    with torch.no_grad():
        case.models["model"][0].weight[0, 0] += 1e-6
    wrong = beyond(differences(expected, run(case, case.step, 12)))
    assert "update 0: parameter model.0.weight" in wrong
    case = CATALOGUE["batch_norm_1d"].build()
    case.models["model"][1].num_batches_tracked += 1
    expected = run(CATALOGUE["batch_norm_1d"].build(), CATALOGUE["batch_norm_1d"].build().step, 12)
    wrong = beyond(differences(expected, run(case, case.step, 12)))
    assert wrong["update 0: buffer model.1.num_batches_tracked"] == float("inf")
