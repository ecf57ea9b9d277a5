"""verify() tells a right accumulated step from a wrong one, in every precision, and leaves no trace."""

import itertools

import pytest
import sympy
import torch
import torch.nn.functional as F

from accumcompile import accumulate
from accumcompile.diagnostics.errors import AccumulateError
from accumcompile.ir.loop import Split
from accumcompile.report.plan import Plan
from accumcompile.session.options import Options
from accumcompile.session.session import Session
from accumcompile.step.explain import explain
from accumcompile.testing import gradients, max_rel_diff, rel_diff, rel_diffs, state
from accumcompile.verify.verify import verify

B = sympy.Symbol("s0", integer=True, positive=True)
PLAN = Plan("fused", B, 1, (), ())


class ByHand:
    """A step of ours as `verify` sees it, accumulated by hand: `weight` says what each micro-batch counts."""

    def __init__(self, fn, weight, steps=3):
        self.fn, self.weight = fn, weight
        self.session = Session(Options(steps=steps), name=fn.__name__)

    def __call__(self, model, optimizer, x, y):
        rows = self.session.options.rows(len(x))
        split = Split(len(x), rows)
        self.session.journal.ran(PLAN, {B: len(x)}, split)
        if len(split) == 1:
            return self.fn(model, optimizer, x, y)
        optimizer.zero_grad()
        losses = []
        for start, n in split:
            part = y[start : start + n]
            losses.append(loss_of(model, x[start : start + n], part) * self.weight(part, y, len(split)))
        loss = sum(losses)
        loss.backward()
        optimizer.step()
        return loss.detach()


def loss_of(model, x, y):
    return F.cross_entropy(model(x), y, ignore_index=0)


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = loss_of(model, x, y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def exact(part, y, count):
    return float((part != 0).sum()) / float((y != 0).sum())


def naive(part, y, count):
    return 1 / count


def make(dtype=torch.float64, optimizer=torch.optim.SGD, dropout=0.0, rows=12):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 4)]
    model = torch.nn.Sequential(*layers).to(dtype)
    y = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 2, 1, 2, 3]).repeat(rows // 12)
    return model, optimizer(model.parameters(), lr=0.1), torch.randn(rows, 5, dtype=dtype), y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_the_right_weights_pass(dtype, optimizer):
    report = verify(ByHand(step, exact), *make(dtype, optimizer))
    assert report.passed, str(report)


@pytest.mark.parametrize(("weight", "passes"), [(exact, True), (naive, False)])
def test_autocast_is_measured_against_its_own_rounding(weight, passes, monkeypatch):
    inner = loss_of

    def autocast(*args):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner(*args)

    monkeypatch.setitem(globals(), "loss_of", autocast)
    report = verify(ByHand(step, weight), *make(torch.float32))
    assert report.passed == passes, str(report)
    assert report.allowed.endswith("or 4e-03")
    assert max(row.full_error for row in report.rows) > 1e-4


def test_accumulating_in_half_precision_is_an_error_above_the_full_batch():
    assert not verify(ByHand(step, exact, steps=120), *make(torch.bfloat16, rows=480)).passed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_naive_loop_fails(dtype):
    report = verify(ByHand(step, naive), *make(dtype))
    failed = [row for row in report.rows if not row.passed]
    assert {row.kind for row in failed} >= {"loss", "gradient", "parameter", "output"}
    assert not report.passed
    assert report.max_rel_diff > 0.01


def test_the_full_batch_equals_itself():
    report = verify(ByHand(step, exact, steps=1), *make(torch.float32))
    assert report.passed
    assert report.max_rel_diff == 0
    names = {row.name: row.kind for row in report.rows}
    assert names["loss"] == "loss"
    assert names["returned"] == "output"
    assert names["model.0.weight.grad"] == "gradient"
    assert names["model.0.weight"] == "parameter"


class Returning(ByHand):
    """A step that returns its loss: the value of the full batch's, and the gradient that ``weight`` makes."""

    def __call__(self, model, optimizer, x, y):
        loss = self.fn(model, optimizer, x, y)
        parts = Split(len(x), self.session.options.rows(len(x)))
        slices = [slice(start, start + n) for start, n in parts]
        ours = sum(self.fn(model, optimizer, x[s], y[s]) * self.weight(y[s], y, len(parts)) for s in slices)
        return loss.detach() + ours - ours.detach()


@pytest.mark.parametrize("weight", [exact, naive])
def test_a_loss_that_the_step_returns_is_differentiated(weight):
    def step(model, optimizer, x, y):
        return loss_of(model, x, y)

    model, optimizer, x, y = make()
    y[4] = 0  # 3, 1 and 4 labels count
    report = verify(Returning(step, weight), model, optimizer, x, y)
    assert {row.kind for row in report.rows} >= {"loss", "output", "gradient"}
    assert report.passed == (weight is exact)
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_behind_a_gradient_of_its_own_is_not():
    def step(model, optimizer, x, y):
        loss = loss_of(model, x, y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.grad = g
        return loss

    decorated = accumulate(step, steps=3, lowering="eager")
    assert verify(decorated, *make()).passed


def test_nothing_has_changed():
    model, optimizer, x, y = make(torch.float32, torch.optim.AdamW)
    step(model, optimizer, x, y)
    before, grads, generator = state(model), gradients(model), torch.get_rng_state()
    tensors = [p.data_ptr() for p in model.parameters()]
    verify(ByHand(step, exact), model, optimizer, x, y)
    explain(ByHand(step, exact), model, optimizer, x, y)
    assert max_rel_diff(before, state(model)) == 0
    assert max_rel_diff(grads, gradients(model)) == 0
    assert [p.data_ptr() for p in model.parameters()] == tensors
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), generator)
    assert {float(s["step"]) for s in optimizer.state.values()} == {1.0}


def test_gradients_are_seen_though_the_step_clears_them():
    def clearing(model, optimizer, x, y):
        loss = step(model, optimizer, x, y)
        optimizer.zero_grad()
        return loss

    report = verify(ByHand(clearing, exact, steps=1), *make())
    kinds = {row.name for row in report.rows if row.kind == "gradient"}
    assert {"model.0.weight.grad", "model.0.weight.grad at the end"} <= kinds


def test_random_steps_are_not_compared_with_eager():
    report = verify(ByHand(step, exact, steps=1), *make(torch.float32, dropout=0.5))
    assert report.passed
    assert {row.eager for row in report.rows} == {None}
    assert "not comparable: draws random numbers" in str(report)
    assert not report.notes  # dropout draws the same in float64, which is the reference therefore


def test_other_random_numbers_are_no_reference():
    def noisy(model, optimizer, x, y):
        return step(model, optimizer, x + torch.rand_like(x), y)

    report = verify(ByHand(noisy, exact, steps=1), *make(torch.float32))
    assert report.passed
    assert any("draws other random numbers in float64" in note for note in report.notes)


def test_a_step_that_names_its_dtype_is_compared_directly():
    def pinned(model, optimizer, x, y):
        assert x.dtype == torch.float32, "only float32"
        return step(model, optimizer, x, y)

    report = verify(ByHand(pinned, exact), *make(torch.float32))
    assert report.passed
    assert any("does not run in float64 (AssertionError: only float32)" in note for note in report.notes)
    assert report.allowed == "a difference of at most 1e-04"


def test_a_gradient_of_zero_under_adam_is_left_out_by_name():
    """Its rounding differs from run to run, and Adam makes a whole step of it."""
    signs = itertools.cycle([1, -1])  # no snapshot puts an iterator back

    def shifting(model, optimizer, x, y):
        optimizer.zero_grad()
        shift = model[3].bias.sum() * next(signs) * 1e-17
        (model[0](x).square().mean() + shift).backward()
        optimizer.step()

    model, _, x, y = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0, eps=1e-30)
    report = verify(ByHand(shifting, exact, steps=1), model, optimizer, x, y)
    assert not any(row.kind == "parameter" and not row.passed for row in report.rows)
    assert any(note.startswith("model.3.bias: 4 of 4 elements left out") for note in report.notes)


def test_the_table_reads_well():
    text = str(verify(ByHand(step, exact, steps=1), *make()))
    assert text.splitlines()[0].startswith("step: passed  12 samples as 1 of at most 12; ")
    assert "gradients, optimizer" in text
    failed = str(verify(ByHand(step, naive), *make()))
    assert failed.splitlines()[0].startswith("step: FAILED  12 samples as 3 of at most 4; ")
    assert "\nfailed\n" in failed


def test_explain_reports_what_ran():
    report = explain(ByHand(step, exact), *make())
    assert (report.name, report.steps) == ("step", 3)
    assert report.graphs[0].micro_batches == (4, 4, 4)


def test_a_plain_function_is_refused():
    with pytest.raises(AccumulateError, match="AC007: step is not an accumulated step"):
        verify(step, *make())


def test_differences():
    nan, inf = float("nan"), float("inf")
    assert rel_diff(torch.tensor([4.0, nan, inf]), torch.tensor([3.0, nan, inf])) == 0.25
    assert rel_diff(torch.zeros(2), torch.zeros(3)) == inf
    assert rel_diff(torch.zeros(2), torch.tensor([0.0, nan])) == inf
    assert rel_diff(None, None) == 0
    assert rel_diff(None, torch.zeros(1)) == inf
    assert rel_diffs({"a": torch.tensor(1.0), "b": torch.tensor(10.0)}, {"a": torch.tensor(2.0)}) == {
        "a": 0.1,
        "b": inf,
    }
