"""A loss object that the step itself builds, as with plain torch.compile; Dynamo does not follow every ``__init__``."""

import capturing
import pytest
import small
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning"),
]


class Recorded(nn.Module):
    """Its options come down through three classes, and it keeps bound methods: Dynamo can build it no second time."""

    def __init__(self, collect=None):
        super().__init__()
        self.collect = collect


class WithReducer(Recorded):
    def __init__(self, reducer=None, **kwargs):
        super().__init__(**kwargs)
        self.reducer = reducer or Mean()


class WithDistance(Recorded):
    def __init__(self, distance=None, **kwargs):
        super().__init__(**kwargs)
        self.distance = distance or Cosine()


class Pairs(WithReducer, WithDistance):
    def __init__(self, mine=None, **kwargs):
        super().__init__(**kwargs)
        self.loss_method = self.of_pairs if mine is None else mine

    def forward(self, z, y):
        same = y[:, None] == y[None]
        same = same & ~torch.eye(len(y), dtype=torch.bool)
        return self.reducer(self.loss_method(self.distance(z), same))


class Contrastive(Pairs):
    """InfoNCE over the pairs of one class."""

    def __init__(self, temperature=0.5, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def of_pairs(self, similarity, same):
        return -(similarity / self.temperature).log_softmax(-1)[same]


class Mean(nn.Module):
    def forward(self, losses):
        return losses.mean()


class Cosine(nn.Module):
    def forward(self, z):
        z = F.normalize(z, dim=-1)
        return z @ z.T


class Half(nn.Module):
    """Not yet a module when Dynamo comes upon it: a call of its ``__init__`` that cannot be traced comes first."""

    def __init__(self, **kwargs):
        torch._dynamo.graph_break()
        self.prepare(**kwargs)

    def prepare(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def forward(self, out, y):
        return F.cross_entropy(out * self.scale, y)


class Weighted(nn.Module):
    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.weight = nn.Parameter(torch.ones(classes, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, out, y):
        self.seen += len(y)
        return F.cross_entropy(out * self.weight, y) + 0.1 * self.seen


BUILT = {
    "kwargs passed on": lambda: Contrastive(temperature=0.3),
    "bound methods kept": lambda: Contrastive(reducer=Mean(), collect=True),
    "broken in __init__": lambda: Half(scale=0.5),
    "parameters and buffers": lambda: Weighted(3),
    "torch's own": lambda: nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.ones(3, dtype=torch.float64)),
}


@pytest.mark.parametrize("what", BUILT)
def test_a_loss_built_in_the_step(what):
    build = BUILT[what]

    def step(model, x, y):
        loss = build()(model(x), y)
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net(), sizes=(12, 13, 12))
    assert len(ran.runs) >= 3
    assert all(len(run.split) == 3 for run in ran.runs)


def test_one_built_by_a_method_of_the_trainer():
    class Trainer:
        def __init__(self, model):
            self.model, self.log = model, []

        def loss(self, out, y):
            return Contrastive(temperature=0.2)(out, y)

        def step(self, x, y):
            loss = self.loss(self.model(x), y)
            loss.backward()
            self.log.append(float(loss.detach()))
            return loss.detach()

    def step(model, x, y):
        return Trainer(model).step(x, y)

    ran = capturing.same(step, small.net(), sizes=(12, 13, 12))
    assert all(len(run.split) == 3 for run in ran.runs)
