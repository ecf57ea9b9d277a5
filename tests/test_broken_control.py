"""The loop that everybody writes first must fail the catalogue's comparison, or it proves nothing."""

import pytest
from catalogue.compare import beyond, differences, run
from steps import CATALOGUE

CLEARLY_WRONG = 1e-3
WRONG_WHEN_SPLIT = (
    "cross_entropy_ignore_index_uneven",
    "batch_norm_1d",
    "symmetric_info_nce",
    "mixture_of_experts",
)


def naive(case, count):
    """The case's step as a loop: split the batch, divide each micro-batch's mean by their number, add."""

    def step(*batch):
        for optimizer in case.optimizers:
            optimizer.zero_grad()
        micro_batches = list(zip(*(tensor.chunk(count) for tensor in batch), strict=True))
        total = 0.0
        for micro_batch in micro_batches:
            loss = case.loss_fn(*micro_batch) / len(micro_batches)
            loss.backward()
            total = total + loss.detach()
        for optimizer in case.optimizers:
            optimizer.step()
        return total

    return step


def naive_differences(name, count, size=12):
    full, split = CATALOGUE[name].build(), CATALOGUE[name].build()
    return differences(run(full, full.step, size), run(split, naive(split, count), size))


def assert_gradients_differ(found):
    wrong = beyond(found, tolerance=CLEARLY_WRONG)
    assert any("gradient" in name for name in wrong), f"the comparison saw only {beyond(found)}"


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("name", WRONG_WHEN_SPLIT)
def test_naive_loop_fails_clearly(name, count):
    assert_gradients_differ(naive_differences(name, count))


@pytest.mark.parametrize("name", WRONG_WHEN_SPLIT)
def test_naive_loop_passes_unsplit(name):
    """So it is the splitting that the comparison catches, and not the loop."""
    assert not beyond(naive_differences(name, count=1))


def test_naive_loop_passes_where_it_is_right():
    """A mean over samples, in micro-batches of one size."""
    assert not beyond(naive_differences("mse_mean", count=3))


def test_naive_loop_fails_on_a_tail():
    """The same mean over 13 samples, as 5, 5 and 3: the last three count for too much."""
    assert_gradients_differ(naive_differences("mse_mean", count=3, size=13))
