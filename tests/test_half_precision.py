"""The catalogue in bfloat16 and float16: no further from float64 than the full batch is."""

from dataclasses import replace
from itertools import cycle

import pytest
import torch
from catalogue.compare import run
from catalogue.precision import NotInHalfError, above, dtypes, errors, full_batch, larger, run_twice
from steps import CATALOGUE
from torch.fx.experimental.proxy_tensor import make_fx

from accumcompile import accumulate
from accumcompile.ir.carry import Carry
from accumcompile.passes import sizes_in_half
from accumcompile.passes.manager import Context

SAMPLES, STEPS = 4, 16  # four times the row's own batch, by three
# The accumulated step may be twice as far from float64 as the full batch, which may round a value once in any case.
# On the full batch an operator that is decomposed rounds more often than its kernel does.
ACCUMULATED, DECOMPOSED = 2, 10

HALF = [torch.bfloat16, torch.float16]
PLAIN = {torch.bfloat16: 0, torch.float16: 3}  # of the plain run: the first row
INDUCTOR = ("weight_norm", "cross_entropy_ignore_index_uneven")
RUNS = [pytest.param(row, dtype, id=f"{row.name}-{dtype}") for row in CATALOGUE.values() for dtype in HALF]


@pytest.fixture(autouse=True)
def compiled_anew():
    yield
    torch._dynamo.reset()


def too_far(row, dtype, lowering="eager", steps=STEPS):
    """The values that are further from float64 than they may be, and the roads that were taken."""
    size = SAMPLES * row.batches[0]
    try:
        full, own = full_batch(row, dtype, size)
    except NotInHalfError as reason:
        pytest.skip(str(reason))
    case = row.build(dtype=dtype)
    step = accumulate(steps=steps, lowering=lowering, **case.options)(case.step)
    with step.session.journal.recording() as runs:
        exact, accumulated = run_twice(case, step, size)
    case.restore()
    step.steps = 1
    at_once = errors(*run_twice(case, step, size))
    assert dtypes(accumulated) == dtypes(full)
    floor = torch.finfo(dtype).eps / 2
    wrong = above(errors(exact, accumulated), larger(own, at_once), ACCUMULATED, floor)
    return wrong | above(at_once, own, DECOMPOSED, floor), {each.plan.road for each in runs}


def first_of(dtype):
    """Every sixty-fourth row, other ones for each dtype."""
    rows = list(CATALOGUE.values())[PLAIN[dtype] :: 64]
    return [pytest.param(row, dtype, id=f"{row.name}-{dtype}") for row in rows]


@pytest.mark.parametrize(("row", "dtype"), [each for dtype in HALF for each in first_of(dtype)])
def test_some_rows(row, dtype):
    wrong, _ = too_far(row, dtype)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize(("row", "dtype"), RUNS)
def test_every_row(row, dtype):
    wrong, _ = too_far(row, dtype)
    assert not wrong


@pytest.mark.inductor
@pytest.mark.parametrize(("name", "dtype"), zip(INDUCTOR, cycle(HALF)))
def test_some_rows_through_inductor(name, dtype):
    wrong, _ = too_far(CATALOGUE[name], dtype, "inductor")
    assert not wrong


@pytest.mark.slow
@pytest.mark.inductor
@pytest.mark.parametrize(("row", "dtype"), RUNS)
def test_every_row_through_inductor(row, dtype):
    wrong, _ = too_far(row, dtype, "inductor")
    assert not wrong


@pytest.mark.parametrize(("dtype", "roads"), [(torch.bfloat16, {"fused"}), (torch.float16, {"forward", "backward"})])
def test_float16_takes_the_road_on_which_the_scalers_factor_arrives(dtype, roads):
    assert too_far(CATALOGUE["mse_mean"], dtype) == ({}, roads)


def test_sums_kept_in_half_precision_are_too_far(monkeypatch):
    """The broken control: of 200 samples, accumulated one by one in bfloat16, a loss is far off."""
    row, samples = replace(CATALOGUE["named_tuple_batch"], batches=(50, 13)), SAMPLES * 50
    assert not too_far(row, torch.bfloat16, steps=samples)[0]
    torch._dynamo.reset()

    def narrow(op, result, wide=None, source=""):
        return Carry(op, result, result, source)

    monkeypatch.setattr(Carry, "of", narrow)
    assert "returned " in too_far(row, torch.bfloat16, steps=samples)[0]


# --- what was found so


@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_parts_may_be_too_large_for_float16(lowering):
    """Each micro-batch's sum is beyond 65504, and the batch's is zero."""

    def step(w, x):
        loss = (x * w).sum()
        loss.backward()
        return loss.detach()

    w = torch.ones(1, dtype=torch.float16, requires_grad=True)
    x = torch.full((8, 1000), 100.0, dtype=torch.float16)
    x[4:] *= -1
    assert accumulate(steps=4, lowering=lowering)(step)(w, x).item() == w.grad.item() == 0


@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_a_mean_over_more_elements_than_float16_can_count(lowering):
    """262144 is infinite in float16: neither the sum nor the count may be, nor the gradient be divided to zero."""

    def step(w, x):
        loss = (x * w).mean()
        loss.backward()
        return loss.detach()

    ours = accumulate(steps=8, lowering=lowering)(step)
    for value in (30000.0, 1.0):
        w = torch.ones(1, dtype=torch.float16, requires_grad=True)
        x = torch.full((64, 4096), value, dtype=torch.float16)
        assert ours(w, x).item() == w.grad.item() == value


@pytest.mark.parametrize(
    "lowering", ["eager", pytest.param("inductor", marks=[pytest.mark.inductor, pytest.mark.slow])]
)
def test_an_lstm_in_single_precision(lowering):
    """On a CPU PyTorch traces oneDNN's kernel for inference, which has no backward."""
    case = CATALOGUE["lstm"].build(dtype=torch.float32)
    full = run(case, case.step, 12)
    case.restore()
    ours = run(case, accumulate(steps=3, lowering=lowering)(case.step), 12)
    assert max(errors(full, ours).values()) < 1e-5


@pytest.mark.parametrize("name", ["gan_with_two_optimizers", "weight_norm"])
def test_what_torch_compile_does_not_run_in_float16(name):
    """Two outputs of one graph have a backward each, as in eager; a norm's backward gets the dtype that it wants."""
    assert not too_far(CATALOGUE[name], torch.float16)[0]


def test_sizes_meet_half_precision_in_float32():
    """Before: a / s, b * 2. After: the quotient alone is worked out in float32, and rounded."""

    def before(a, b):
        return a / a.shape[0], b * 2.0, a.sum(0)

    half = torch.full((262144,), 3.0, dtype=torch.float16), torch.ones(4, dtype=torch.float16)
    traced = make_fx(before, tracing_mode="symbolic")(*half)
    gm = sizes_in_half(traced, Context())
    dtypes_met = [n.args[0].meta["val"].dtype for n in gm.graph.nodes if n.target is torch.ops.aten.div.Tensor]
    assert dtypes_met == [torch.float32]
    added = [n for n in gm.graph.nodes if n.target is torch.ops.prims.convert_element_type.default]
    assert len(added) == 2 and len(gm.graph.nodes) == len(traced.graph.nodes) + 2
    for x, y in zip(gm(*half), before(*half), strict=True):
        assert torch.equal(x, y) and x.dtype == y.dtype
