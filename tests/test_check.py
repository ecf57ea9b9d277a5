"""Rounding never trips the check of compiled code, and wrong code always does."""

from __future__ import annotations

import pytest
import torch
from bodies import MISTAKES, Wrong, honest, in_float64, random_arguments, random_body
from torch.fx.experimental.proxy_tensor import make_fx

from accumcompile.lowering.trust.check import Expected, WrongCodeError, distance, extent, unexplained
from accumcompile.lowering.trust.rounding import MANY_BITS, coarse

DTYPES = torch.float64, torch.float32, torch.bfloat16, torch.float16
# A smaller effect is one of rounding, or too near to it to be told: as a share of the result, and in units of the
# result's own rounding error.
LEAST_SHARE, LEAST_ERRORS = 1e-3, 60


def alarms(bodies, dtype):
    """The honest codes that are taken for wrong ones."""
    found = []
    for seed in bodies:
        body, arguments = random_body(seed), random_arguments(seed, dtype)
        expected = Expected(body, arguments)
        for how, values in honest(body, arguments, seed).items():
            try:
                expected.compare(values)
            except WrongCodeError as wrong:
                found.append((seed, how, str(wrong)))
    return found


def missed(bodies, dtype):
    """(mistakes made, those that pass for rounding), for bodies that do not jump."""
    made, passed = [], []
    for seed in bodies:
        body, arguments = random_body(seed, jumps=False), random_arguments(seed, dtype)
        expected, exact = Expected(body, arguments), in_float64(body, arguments)
        coarse = list(expected.coarse())
        for name in MISTAKES:
            code = Wrong(body, name)
            values = list(code.run(*arguments))
            if code.made and has_effect(values, expected.values, exact):
                made.append((seed, name))
                passed += [] if unexplained(values, expected.values, coarse) else [(seed, name)]
    return made, passed


def has_effect(values, right, exact):
    """Whether code with a mistake gives something else than rounding might have."""
    for v, r, e in zip(values, right, exact, strict=True):
        moved, size, error = distance(v, r)[0], extent(r)[0], distance(r, e)[0]
        if moved > max(LEAST_SHARE * size, LEAST_ERRORS * error):
            return True
    return False


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_no_mistake(dtype):
    assert not alarms(range(8), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_no_mistake_in_a_thousand_bodies(dtype):
    assert not alarms(range(100, 350), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mistake_is_no_rounding(dtype):
    made, passed = missed(range(8), dtype)
    assert {name for _, name in made} == MISTAKES.keys() and not passed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mistake_is_no_rounding_in_many_bodies(dtype):
    made, passed = missed(range(100, 200), dtype)
    assert len(made) > 200 and not passed


def one_by_one(x, lanes=16):
    """The sum over the first dimension as compiled code makes it: in lanes, each of them term by term."""
    total = torch.zeros_like(x[:lanes])
    for terms in x.split(lanes):
        total[: len(terms)] += terms
    return total.sum(0)


@pytest.mark.parametrize("shape", [(60000,), (4000, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_roundings_of_equal_terms_go_the_same_way(shape, dtype):
    """Dropout of ones: a sum term by term is off by hundreds of roundings, and one without its last tenth is wrong."""
    torch.manual_seed(0)
    x = (torch.rand(shape) < 0.7).to(dtype) / 0.7
    expected = Expected(make_fx(lambda x: (x.sum(0),))(x), [x])
    lanes = 16 if len(shape) == 1 else 1
    honest = one_by_one(x, lanes)
    assert distance(honest, expected.values[0])[0] > 50 * torch.finfo(dtype).eps * extent(honest)[0]
    expected.compare([honest])
    with pytest.raises(WrongCodeError):
        expected.compare([one_by_one(x[: shape[0] * 9 // 10], lanes)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["scatter_add", "index_put", "scatter_reduce"])
def test_a_sum_by_index_is_a_sum(kind, dtype):
    """The same where an index says which terms belong together: compiled code adds them in another order."""
    torch.manual_seed(0)
    x, index = (torch.rand(60000) < 0.7).to(dtype) / 0.7, torch.zeros(60000, dtype=torch.long)
    into = {
        "scatter_add": lambda x, i: x.new_zeros(1).scatter_add(0, i, x),
        "index_put": lambda x, i: x.new_zeros(1).index_put([i], x, accumulate=True),
        "scatter_reduce": lambda x, i: x.new_zeros(1).scatter_reduce(0, i, x, "sum"),
    }[kind]
    expected = Expected(make_fx(lambda *given: (into(*given),))(x, index), [x, index])
    honest = x.sum(0, keepdim=True)
    assert distance(honest, expected.values[0])[0] > 50 * torch.finfo(dtype).eps * extent(honest)[0]
    expected.compare([honest])
    with pytest.raises(WrongCodeError):
        expected.compare([x[:54000].sum(0, keepdim=True)])


@pytest.mark.parametrize("kind", ["gather", "index", "index_select", "embedding"])
def test_a_lookup_is_no_sum(kind):
    """What is picked from many is as exact as what is picked from few."""
    torch.manual_seed(0)
    x, index = torch.randn(60000, 1, dtype=torch.float64), torch.randint(60000, (40,))
    look_up = {
        "gather": lambda x, i: x.gather(0, i[:, None]),
        "index": lambda x, i: x[i],
        "index_select": lambda x, i: x.index_select(0, i),
        "embedding": lambda x, i: torch.ops.aten.embedding(x, i),
    }[kind]
    expected = Expected(make_fx(lambda *given: (look_up(*given),))(x, index), [x, index])
    with pytest.raises(WrongCodeError):
        expected.compare([expected.values[0] * (1 + 100 * torch.finfo(x.dtype).eps)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_coarse_grid(dtype):
    noise = torch.Generator().manual_seed(0)
    some = torch.tensor([0.0, 1.0, 0.5, 24.0, torch.inf, torch.nan])
    x = torch.cat([torch.randn(1000, dtype=torch.float64), some.double()]).to(dtype)
    for turn, bits in enumerate(MANY_BITS[:12]):
        rounded = coarse(x, bits, turn, noise)
        assert torch.equal(rounded[-6:-1], x[-6:-1]) and rounded[-1].isnan()
        assert torch.equal(coarse(rounded[:-1], bits, turn, noise), rounded[:-1])  # what is picked is rounded already
        moved = (rounded[:-1] != x[:-1]).double().mean()
        assert 0.2 < moved < 1 and not (rounded[:1000] - x[:1000]).abs().gt(2**bits * torch.finfo(dtype).eps * 4).any()


def test_infinities_and_nan_are_values():
    a = torch.tensor([1.0, torch.inf, torch.nan])
    assert distance(a, a.clone()) == (0.0, 0.0)
    assert distance(a, torch.tensor([1.0, 2.0, torch.nan])) == (torch.inf, torch.inf)
    assert distance(a, torch.tensor([1.0, torch.inf, 0.0])) == (torch.inf, torch.inf)
    assert distance(torch.tensor([True, False]), torch.tensor([True, True])) == (1.0, 1.0)
    assert extent(a) == (1.0, 1.0)
