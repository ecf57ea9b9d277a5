"""What a jump compares with its own maximum, order or copy comes from the same code, however loops round."""

from __future__ import annotations

import copy

import pytest
import torch
from apart import NAME, Apart
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from accumcompile import accumulate
from accumcompile.ir.loop import loops_in
from accumcompile.lowering.eager import CheckedBody
from accumcompile.lowering.inductor.lowering import InductorLowering
from accumcompile.planning.comparisons import Comparisons
from accumcompile.session.lowerings import LOWERINGS

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
TOLERANCE = 1e-9
EPS = 1e-12


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(torch.tanh(self.layer(x)))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(LOWERINGS, NAME, Apart)


def normal(x: Tensor) -> Tensor:
    """What a barrier lies in: the statistics of the batch."""
    return (x - x.mean(0)) / (x.std(0) + 0.5)


def maximum_of_maxima(v):
    return v.amax(2, keepdim=True).amax()


def pooled_before_statistics(v):
    """As in a PointNet: the largest of a set's features, and batch norm."""
    return normal(v.amax(1)).pow(3).mean()


def smallest_below_the_maximum_of_the_batch(v):
    """Two maxima, one behind the other, and the statistics of what is smallest."""
    return normal((v - v.amax(0, keepdim=True)).amin(2)).tanh().pow(3).mean()


def pooled_by_torch_before_statistics(v):
    return normal(F.max_pool1d(v, 3, 1, 1)).pow(3).mean()


def peaks(v):
    """As in a CenterNet: what equals the maximum around it."""
    highest = F.max_pool1d(v, 3, 1, 1)
    return (normal(highest) * (highest == v)).pow(3).mean()


def largest_of_each(v):
    return (normal(v.sum(2)) * (v >= v.amax(2, keepdim=True)).double().argmax(2)).pow(3).mean()


def top_two(v):
    values = v.topk(2, 2).values
    kept = torch.where(v >= values[..., -1:], v, 0.0)
    return (normal(kept) * torch.sigmoid(values.sum(2, keepdim=True))).pow(3).mean()


def median(v):
    middle = v.sort(2).values[..., 2:3]
    return (normal(middle) * (v > middle).sum(2, keepdim=True)).pow(3).mean()


def clamped(v):
    low = v.clamp(-0.1, 0.1)
    return (normal(low) * (low == v) * v).pow(3).mean()


def larger_of_two(v):
    larger = torch.maximum(v, v.roll(1, 2))
    return (normal(larger) * (larger == v)).pow(3).mean()


def looked_up(v):
    largest = v.gather(2, v.argmax(2, keepdim=True))
    return (normal(largest) - (largest - v + 1e-6).sqrt()).pow(3).mean()


def root_of_the_distance_to_a_maximum(v):
    return (v.detach().max() - v + EPS).sqrt().mean()


def logarithm_of_the_distance_to_a_maximum(v):
    return (v.detach().max() - v + 1e-7).log().mean()


def quotient_by_the_distance_to_a_maximum(v):
    return (v / (v.detach().max() - v + 1e-7)).mean()


def power_of_the_distance_to_a_minimum(v):
    return (v - v.detach().min() + 1e-9).pow(-0.5).mean()


def angle_to_the_maximum(v):
    with torch.no_grad():
        cosine = v / v.abs().max()
        weight = torch.acos(cosine * (1 - 1e-6))
    return (weight * v).mean()


def ranked_pairs(v):
    score = v[:, 0, 0]
    higher = score[:, None] > score[None]
    return (higher * F.relu(0.1 - (score[:, None] - score[None]))).mean()


def pairs_ranked_by_a_function_of_the_batch(v, x):
    score, target = v[:, 0, 0], (x[:, 0, 0] * 3.7).exp()
    return ((target[:, None] >= target[None]) * F.relu(0.1 - (score[:, None] - score[None]))).mean()


HOLD_ANYHOW = (
    pooled_by_torch_before_statistics,
    peaks,
    largest_of_each,
    median,
    clamped,
    larger_of_two,
    looked_up,
    angle_to_the_maximum,
    ranked_pairs,
)  # what they compare is loaded in any case
HOLD = (
    maximum_of_maxima,
    pooled_before_statistics,
    smallest_below_the_maximum_of_the_batch,
    top_two,
    root_of_the_distance_to_a_maximum,
    logarithm_of_the_distance_to_a_maximum,
    quotient_by_the_distance_to_a_maximum,
    power_of_the_distance_to_a_minimum,
    pairs_ranked_by_a_function_of_the_batch,
)
losses, held = (
    pytest.mark.parametrize("loss_of", each, ids=lambda f: f.__name__) for each in (HOLD_ANYHOW + HOLD, HOLD)
)


def step_of(loss_of):
    def step(model, x):
        v = model(x)
        loss = loss_of(v, x) if loss_of is pairs_ranked_by_a_function_of_the_batch else loss_of(v)
        loss.backward()
        return loss.detach()

    return step


def outcome(step, model, x) -> list[Tensor]:
    """The loss and the gradients."""
    model.zero_grad()
    return [step(model, x), *(p.grad for p in model.parameters())]


def apart(actual, expected) -> float:
    """How far values are from others, relative to their norms; infinite for NaN."""
    differences = [(a - e).norm() / e.norm() for a, e in zip(actual, expected, strict=True)]
    return float(torch.stack(differences).nan_to_num(torch.inf).max())


def apart_from_the_full_batch(loss_of, lowering, steps=4, rows=7) -> float:
    torch.manual_seed(0)
    model, x, step = Net(), torch.randn(8, rows, 6, dtype=torch.float64), step_of(loss_of)
    return apart(outcome(accumulate(steps=steps, lowering=lowering)(step), model, x), outcome(step, model, x))


@losses
def test_loops_that_round_apart(loss_of):
    assert apart_from_the_full_batch(loss_of, NAME) < TOLERANCE


@held
def test_without_what_holds_them_together(loss_of, monkeypatch):
    """The control: the steps do hang on it."""
    monkeypatch.setattr(Comparisons, "conflicts", lambda self: ())
    assert apart_from_the_full_batch(loss_of, NAME) > TOLERANCE


def test_a_maximum_is_taken_again_where_its_operand_is_computed_again():
    """The features of a point are as many as the batch has, and are not kept."""
    step, model = accumulate(steps=4, lowering="eager")(step_of(pooled_before_statistics)), Net()
    report = step.explain(model, torch.randn(8, 7, 6, dtype=torch.float64))
    assert len(report.loops) == 3
    assert {y.shape for loop in report.loops for y in loop.ys} == {(8, 5)}


class Mixed:
    """Compiles every other loop; the others run as they do where a compiled one was found wrong."""

    draws_by_seed = True

    def __init__(self, session, compiled: int):
        self.inductor, self.compiled = InductorLowering(session), compiled
        self.decompositions = self.inductor.decompositions

    def lower(self, program: GraphModule) -> GraphModule:
        for k, (name, _) in enumerate(loops_in(program)):
            if k % 2 != self.compiled:
                program.set_submodule(name, CheckedBody(program.get_submodule(name)))
        return self.inductor.lower(program)


def rows_and_maximum(v):
    return (v * (v >= v.amax(2, keepdim=True))).sum()


def maximum_of_a_residual(v):
    v = v + v @ torch.eye(5, dtype=v.dtype).roll(1, 0)
    return (v + v.amax(1, keepdim=True).exp()).square().mean()


@pytest.mark.inductor
@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss_of", [maximum_of_maxima, rows_and_maximum, maximum_of_a_residual])
def test_kernels_of_one_loop(loss_of, steps):
    """Where 64 rows have a maximum of 5 values each, torch.compile alone finds no value equal to some of them."""
    assert apart_from_the_full_batch(loss_of, "inductor", steps, rows=64) < TOLERANCE


@pytest.mark.inductor
@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "loss_of",
    [rows_and_maximum, *(pytest.param(f, marks=pytest.mark.slow) for f in (maximum_of_maxima, peaks, ranked_pairs))],
)
def test_kernels_in_half_precision(loss_of, steps):
    """As near to float64 as eager is, up to a tie or two; torch.compile alone finds no value equal to its copy."""
    torch.manual_seed(0)
    model, x, step = Net().bfloat16(), torch.randn(8, 7, 6, dtype=torch.bfloat16), step_of(loss_of)
    exact = outcome(step, copy.deepcopy(model).double(), x.double())
    own, ours, compiled = (
        apart(outcome(each, model, x), exact) for each in (step, accumulate(steps=steps)(step), torch.compile(step))
    )
    assert ours < 4 * own < compiled, "the control: a wrong gradient is far"


@pytest.mark.inductor
@pytest.mark.parametrize("compiled", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["even", "odd"])
@pytest.mark.parametrize(
    "loss_of", [maximum_of_maxima, pooled_before_statistics, pytest.param(top_two, marks=pytest.mark.slow)]
)
def test_every_other_loop_compiled(loss_of, compiled, monkeypatch):
    monkeypatch.setitem(LOWERINGS, "mixed", lambda session: Mixed(session, compiled))
    assert apart_from_the_full_batch(loss_of, "mixed") < TOLERANCE
