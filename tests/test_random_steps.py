"""Whatever a step draws, it draws the same for any number of micro-batches, and what it draws is random."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from accumcompile import accumulate

BATCH, SHAPE = 13, (4, 5, 6)
STEPS = {"eager": (3, 5, 13), "inductor": (5,)}  # each graph that Inductor compiles takes seconds
LOWERINGS = ["eager", pytest.param("inductor", marks=pytest.mark.inductor)]
lowerings = pytest.mark.parametrize("lowering", LOWERINGS)


@pytest.fixture(autouse=True)
def compiled_anew():
    torch._dynamo.reset()


# Draws that Inductor computes from a seed and an element's index: a micro-batch computes its own part.
BY_INDEX = {
    "dropout": lambda x, dim: F.dropout(x, 0.3),
    "rand": lambda x, dim: torch.rand(x.shape),
    "rand_like": lambda x, dim: torch.rand_like(x),
    "randn_like": lambda x, dim: torch.randn_like(x),
    "randint": lambda x, dim: torch.randint(3, 1000, x.shape),
    "mask": lambda x, dim: torch.rand(x.shape[dim]) < 0.4,
}
# Draws from the generator itself: made whole, in the order in which they stand.
FROM_GENERATOR = {
    "bernoulli_p": lambda x, dim: torch.empty_like(x).bernoulli_(0.4),
    "bernoulli": lambda x, dim: torch.bernoulli(x.sigmoid()),
    "normal_": lambda x, dim: torch.empty_like(x).normal_(1.0, 2.0),
    "normal": lambda x, dim: torch.normal(x, 0.5),
    "multinomial": lambda x, dim: rows(x, dim).softmax(1).multinomial(2),
    "randperm": lambda x, dim: torch.randperm(x.shape[dim]),
    "poisson": lambda x, dim: torch.poisson(x.exp()),
}
DRAWS = {
    name: draw
    for pair in zip(FROM_GENERATOR.items(), [*BY_INDEX.items(), *BY_INDEX.items()], strict=False)
    for name, draw in pair
}


def rows(x, dim):
    """A row of numbers for each sample."""
    return x.movedim(dim, 0).flatten(1)


def step_of(dim, draws=DRAWS):
    """A step that makes these draws in turn, trains on them, and returns them."""

    def step(w, x):
        drawn = {name: draw(x * w, dim) for name, draw in draws.items()}
        one_each = [v for v in drawn.values() if v.shape == x.shape]
        loss = sum((x * w * v).square().mean() for v in one_each)
        loss = loss + (rows(x * w, dim).gather(1, drawn["multinomial"]) * drawn["randperm"][:, None]).sum()
        loss = loss + (rows(x * w, dim) * drawn["mask"][:, None]).mean()
        loss.backward()
        return loss.detach(), {name: v.detach() for name, v in drawn.items()}

    return step


def arguments(dim):
    torch.manual_seed(3)
    shape = [BATCH if d == dim else n for d, n in enumerate(SHAPE)]
    return torch.rand(shape[2] if dim != 2 else 1, dtype=torch.float64, requires_grad=True), torch.randn(
        shape, dtype=torch.float64
    )


def outcome(step, w, x):
    """What a step returns, the gradient, and where it leaves the generator."""
    w.grad = None
    torch.manual_seed(11)
    loss, drawn = step(w, x)
    return {"loss": loss, "gradient": w.grad, "generator": torch.get_rng_state()}, drawn


COMPILED = [pytest.param("inductor", d, marks=[pytest.mark.inductor, pytest.mark.slow]) for d in range(3)]


@pytest.mark.parametrize(("lowering", "dim"), [*(("eager", d) for d in range(3)), *COMPILED])
def test_every_draw_is_the_full_batchs(lowering, dim):
    """Element for element, along any batch dim: as one micro-batch draws under the same lowering."""
    w, x = arguments(dim)
    step = accumulate(steps=1, lowering=lowering, batch_dims={"x": dim, "w": None})(step_of(dim))
    values, expected = outcome(step, w, x)
    for steps in STEPS[lowering]:
        step.steps = steps
        others, drawn = outcome(step, w, x)
        assert [name for name in expected if not torch.equal(expected[name], drawn[name])] == []
        torch.testing.assert_close(others, values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("rows", "lowering"),
    [((6, 48), "eager"), ((18, 16), "eager"), pytest.param((18, 16), "inductor", marks=pytest.mark.inductor)],
)  # a pair of samples each, three to every two
def test_rows_that_samples_share_draw_what_the_full_batch_does(lowering, rows):
    def step(w, x):
        drawn = torch.rand_like((x * w).view(-1, rows[1]))
        loss = (F.dropout((x * w).view(-1, rows[1]), 0.3) * drawn).square().mean()
        loss.backward()
        return loss.detach(), {"drawn": drawn}

    w, x = torch.ones(24, dtype=torch.float64, requires_grad=True), torch.randn(12, 24, dtype=torch.float64)
    accumulated = accumulate(steps=1, lowering=lowering, batch_dims={"x": 0, "w": None})(step)
    values, expected = outcome(accumulated, w, x)
    assert expected["drawn"].shape == rows and expected["drawn"].unique().numel() == x.numel()
    accumulated.steps = 3
    others, drawn = outcome(accumulated, w, x)
    assert torch.equal(expected["drawn"], drawn["drawn"])
    torch.testing.assert_close(others, values, rtol=1e-10, atol=1e-10)


# PyTorch's decompositions make these masks of other draws than its eager operators do.
OTHERWISE = {"dropout", "bernoulli"}


@pytest.mark.parametrize("dim", range(3))
def test_without_a_compiler_draws_are_those_of_the_plain_step(dim):
    """So each is made once, whole, and in its turn."""
    w, x = arguments(dim)
    plain = step_of(dim, {name: draw for name, draw in DRAWS.items() if name not in OTHERWISE})
    step = accumulate(steps=5, lowering="eager", batch_dims={"x": dim, "w": None})(plain)
    (values, expected), (others, drawn) = outcome(plain, w, x), outcome(step, w, x)
    assert [name for name in expected if not torch.equal(expected[name], drawn[name])] == []
    torch.testing.assert_close(others, values, rtol=1e-10, atol=1e-10)


# What is random


@cache
def noises(lowering, size=4001, steps=4, features=64):
    """The draws of a step by name, each [batch, features], and its micro-batches."""

    def step(w, x):
        drawn = {name: DRAWS[name](x, 0) for name in MOMENTS}
        loss = sum((x * w * noise).mean() for noise in drawn.values())
        loss.backward()
        return {name: noise.detach() for name, noise in drawn.items()}

    w = torch.ones(features, requires_grad=True)
    step = accumulate(steps=steps, lowering=lowering, batch_dims={"x": 0, "w": None})(step)
    torch.manual_seed(0)
    drawn = {name: noise.double() for name, noise in step(w, torch.ones(size, features)).items()}
    return {name: (noise, noise.split(-(-size // steps))) for name, noise in drawn.items()}


# (mean, variance) of what is drawn for ones
MOMENTS = {
    "dropout": (1.0, 0.3 / 0.7),
    "rand": (0.5, 1 / 12),
    "randn_like": (0.0, 1.0),
    "randint": (501.0, (997**2 - 1) / 12),
    "bernoulli_p": (0.4, 0.24),
    "normal_": (1.0, 4.0),
}


@lowerings
@pytest.mark.parametrize("name", MOMENTS)
def test_mean_and_variance_are_those_of_the_distribution(name, lowering):
    """Of the batch and of each micro-batch, within five standard errors."""
    mean, variance = MOMENTS[name]
    noise, pieces = noises(lowering)[name]
    for part in (noise, *pieces):
        count = part.numel()
        kurtosis = ((part - mean) ** 4).mean() / variance**2
        assert abs(part.mean() - mean) < 5 * math.sqrt(variance / count)
        assert abs(part.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / count)


@lowerings
@pytest.mark.parametrize("name", MOMENTS)
def test_micro_batches_draw_different_numbers(name, lowering):
    """No two micro-batches, and no two samples, have the same; what they have is not correlated."""
    mean, variance = MOMENTS[name]
    noise, pieces = noises(lowering)[name]
    pieces = pieces[:-1]  # the tail has another shape
    for i, first in enumerate(pieces):
        for second in pieces[:i]:
            correlation = ((first - mean) * (second - mean)).mean() / variance
            assert abs(correlation) < 5 / math.sqrt(first.numel())
    assert len(noise.unique(dim=0)) == len(noise)


@lowerings
def test_dropout_drops_its_share_and_scales_the_rest(lowering):
    noise, pieces = noises(lowering)["dropout"]
    assert sorted(round(v, 6) for v in noise.unique().tolist()) == [0.0, round(1 / 0.7, 6)]
    for part in pieces:
        assert abs((part == 0).double().mean() - 0.3) < 5 * math.sqrt(0.21 / part.numel())


@lowerings
def test_two_calls_draw_different_numbers(lowering):
    """The seed comes from PyTorch's generator, once a step."""

    def step(w, x):
        dropped = F.dropout(x * w)
        dropped.sum().backward()
        return dropped.detach()

    decorated = accumulate(steps=3, lowering=lowering, batch_dims={"x": 0, "w": None})(step)
    w, x = torch.ones(8, requires_grad=True), torch.ones(12, 8)
    assert not torch.equal(decorated(w, x), decorated(w, x))
