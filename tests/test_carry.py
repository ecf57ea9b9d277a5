"""What a loop carries belongs to the loop: by which operator, and in which dtype, whatever runs it."""

import pytest
import torch

from accumcompile import accumulate
from accumcompile.ir.carry import REDUCTIONS, ROUND, Carry

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
LOWERINGS = ["eager", pytest.param("inductor", marks=pytest.mark.inductor)]
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


def total(w, x):
    loss = (x * w).sum()
    loss.backward()
    return loss.detach()


def of_ones(samples, dtype=HALF):
    return torch.ones(1, dtype=dtype, requires_grad=True), torch.ones(samples, 1, dtype=dtype)


@pytest.mark.parametrize(
    ("carry", "expected"),
    [
        (Carry.of("sum", HALF), ("sum", SINGLE, HALF)),
        (Carry.of("sum", torch.float16, DOUBLE), ("sum", DOUBLE, torch.float16)),
        (Carry.of("moments", HALF), ("moments", SINGLE, HALF)),
        (Carry.of("sum", torch.complex32), ("sum", torch.complex64, torch.complex32)),
        (Carry.of("max", HALF, DOUBLE), ("max", HALF, HALF)),
        (Carry.of("any", HALF), ("any", HALF, HALF)),
        (Carry.of("sum", SINGLE, DOUBLE), ("sum", SINGLE, SINGLE)),
        (Carry.of("sum", torch.int32, DOUBLE), ("sum", torch.int32, torch.int32)),
        (Carry.of("sum", HALF).alone, ("sum", HALF, HALF)),
    ],
)
def test_only_what_rounds_in_half_precision_is_kept_wider(carry, expected):
    assert (carry.op, carry.dtype, carry.result) == expected
    assert set(ROUND) <= set(REDUCTIONS)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_thousand_ones_are_a_thousand(lowering):
    """One by one in bfloat16, the sum stops at 256."""
    ours = accumulate(steps=1024, lowering=lowering)(total)
    w, x = of_ones(1024)
    assert ours(w, x).item() == w.grad.item() == 1024
    assert w.grad.dtype == HALF


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_the_dtype_may_be_changed_between_calls(lowering):
    """Beside 2 ** 24 a one is lost in float32, and not in float64."""
    ours = accumulate(micro_batch_size=1, lowering=lowering)(total)
    w, x = of_ones(258)
    x[0], x[-1] = 2.0**24, -(2.0**24)
    for dtype, expected in ((SINGLE, 0), (DOUBLE, 256), (None, 0)):
        ours.session.change(accumulator_dtype=dtype)
        assert ours(w, x).item() == expected


def test_one_micro_batch_is_the_full_batch():
    """Nothing is accumulated, and the report counts nothing wider."""
    ours = accumulate(steps=1, lowering="eager")(total)
    w, x = of_ones(12)
    x += torch.randn(12, 1).to(HALF)
    loss, grad = ours(w, x), w.grad
    w.grad = None
    assert torch.equal(loss, total(w, x)) and torch.equal(grad, w.grad)
    assert {(v.dtype, v.accumulated_in, v.bytes) for v in ours.explain(w, x).loops[0].carry} == {("bfloat16", "", 2)}


def test_the_report_and_the_program_say_it(tmp_path):
    ours = accumulate(steps=3, lowering="eager", accumulator_dtype=DOUBLE, dump=tmp_path)(total)
    report = ours.explain(*of_ones(12))
    (loop,) = report.loops
    assert {(v.dtype, v.accumulated_in, v.bytes) for v in loop.carry} == {("bfloat16", "float64", 8)}
    assert "loss P(sum) in float64" in str(report)
    assert report.estimated_bytes == loop.estimated_bytes + 2 * 8  # both accumulators, and a micro-batch
    program = (tmp_path / "graph_1_fused" / "program.py").read_text()
    assert "Carry(op='sum', dtype=torch.float64, result=torch.bfloat16" in program


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_integers_keep_their_own(lowering):
    def counted(x):
        return (x > 0).sum(), x.sum(dtype=torch.int32), x.amax(0), (x > 3).any()

    ours = accumulate(steps=5, lowering=lowering)(counted)
    x = torch.arange(-20, 21)
    for expected, actual in zip(counted(x), ours(x), strict=True):
        assert torch.equal(expected, actual) and expected.dtype == actual.dtype
