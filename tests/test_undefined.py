"""A parameter that meets no loss has no gradient, as in eager: behind a graph break too, where others get zeros."""

import copy

import capturing
import pytest
import small
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Gated(nn.Module):
    """Two layers of which the second only decides."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Linear(4, 3, dtype=torch.float64)
        self.scores = nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.values(x), self.scores(x)


def gated() -> Gated:
    torch.manual_seed(0)
    return Gated()


def training(forward):
    """A whole step around ``forward``: weight decay acts on every parameter that has a gradient."""

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = forward(model, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def decided(values, scores, y):
    return F.cross_entropy(values * (scores > 0), y)


def only_compared(model, x, y):
    values, scores = model(x)
    torch._dynamo.graph_break()
    return decided(values, scores, y)


def beside_a_loss(model, x, y):
    """The first graph has a loss of its own, and returns both beside it."""
    values, scores = model(x)
    penalty = 0.1 * values.square().mean()
    torch._dynamo.graph_break()
    return decided(values, scores, y) + penalty


def rows_of_a_mask(model, x, y):
    """How many rows there are depends on data."""
    values, scores = model(x)
    chosen = y > 0
    values, scores = values[chosen], scores[chosen]
    torch._dynamo.graph_break()
    return decided(values, scores, y[chosen])


def views(model, x, y):
    """What the first graph returns are views, put on the tape behind AOTAutograd's function."""
    values, scores = model(x)
    values, scores = values.t(), scores.view(-1)
    torch._dynamo.graph_break()
    return decided(values.t(), scores.view(-1, 3), y)


def nothing_but_compared(model, x, y):
    """No output of the second graph has a gradient: the third's loss is of the first."""
    values, scores = model(x)
    torch._dynamo.graph_break()
    sharp = 2 * scores, 3 * scores
    torch._dynamo.graph_break()
    return decided(values, sharp[0] + sharp[1], y)


def two_of_one(model, x, y):
    """The sum is differentiated, the scores themselves are not."""
    values, scores = model(x)
    total = values + scores
    torch._dynamo.graph_break()
    return decided(total, scores, y)


class Both(torch.autograd.Function):
    """Autograd gives it zeros for the output that has no gradient, and so both inputs get one."""

    @staticmethod
    def forward(ctx, values, scores):
        return values * 2, scores * 3

    @staticmethod
    def backward(ctx, to_values, to_scores):
        return to_values * 2, to_scores * 3


def function_of_both(model, x, y):
    """The scores' gradient is computed from a tangent that is missing, and is zero in eager too."""
    values, scores = Both.apply(*model(x))
    torch._dynamo.graph_break()
    return decided(values, scores, y)


UNDEFINED = [only_compared, beside_a_loss, rows_of_a_mask, views, nothing_but_compared]
FORWARDS = [*UNDEFINED, two_of_one, function_of_both]
COMPILED = [only_compared, views, function_of_both]  # the others, too, by `make test-full`


def through_inductor(forward):
    marks = [pytest.mark.inductor, *[pytest.mark.slow] * (forward not in COMPILED)]
    return pytest.param(forward, "inductor", marks=marks, id=f"{forward.__name__}-inductor")


@pytest.mark.parametrize(
    ("forward", "lowering"),
    [*(pytest.param(f, "eager", id=f"{f.__name__}-eager") for f in FORWARDS), *map(through_inductor, FORWARDS)],
)
def test_as_in_eager(forward, lowering):
    model = gated()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    ran = capturing.same(training(forward), model, optimizer, lowering=lowering)
    assert (model.scores.weight.grad is None) == (forward in UNDEFINED)
    assert any(run.split.rows < run.split.batch for run in ran.runs if run.plan.loops)


@pytest.mark.parametrize("forward", UNDEFINED, ids=lambda f: f.__name__)
def test_the_compiler_alone_gives_zeros(forward):
    """The control: without us the parameter gets a gradient, and decays."""
    model = gated()
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    torch.compile(training(forward), backend="aot_eager")(model, optimizer, *small.data(12))
    assert not model.scores.weight.grad.any()
    assert not torch.equal(model.scores.weight, before.scores.weight)


def test_what_came_before_keeps_its_zeros():
    """A function compiled by others, whose result we are given, is not told: it could not bear it."""
    embed = torch.compile(lambda model, x: model(x), backend="aot_eager")
    forward = capturing.decorated(lambda values, scores, y: (decided(values, scores, y), values, scores))[0]
    model = gated()
    x, y = small.data(12)
    loss, *_ = forward(*embed(model, x), y)
    loss.backward()
    assert not model.scores.weight.grad.any() and model.values.weight.grad.any()
