"""Steps whose first tensor is not their batch, or not all of it."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row, sgd

FEATURES, CLASSES = 4, 3


def labels(n):
    return torch.randint(0, CLASSES, (n,))


@row(Cost(loops=2, reduce=["lambda weight, x, y: F.cross_entropy(model(x), y, weight=weight),"]))
def class_weights_first():
    """As many weights as classes: a size that cross_entropy makes a constant."""
    model = mlp(FEATURES, 8, CLASSES)
    return fit(
        model,
        lambda weight, x, y: F.cross_entropy(model(x), y, weight=weight),
        lambda n: call(torch.rand(CLASSES), torch.randn(n, FEATURES), labels(n)),
    )


@row(Cost(loops=1))
def anchors_first():
    model = mlp(FEATURES, 8, FEATURES)
    return fit(
        model,
        lambda anchors, x: torch.cdist(model(x), anchors).square().mean(),
        lambda n: call(torch.randn(9, FEATURES), torch.randn(n, FEATURES)),
    )


@row(Cost(loops=2, reduce=["lambda temperature, x, y: F.cross_entropy(model(x) / temperature, y),"]))
def a_temperature_first():
    model = mlp(FEATURES, 8, CLASSES)
    return fit(
        model,
        lambda temperature, x, y: F.cross_entropy(model(x) / temperature, y),
        lambda n: call(torch.ones(1), torch.randn(n, FEATURES), labels(n)),
    )


@row(Cost(loops=2, reduce=["lambda ids, y: F.cross_entropy(model(ids).flatten(0, 1), y.flatten()),"]))
def one_packed_row():
    """Tokens of shape [1, total]."""
    model = nn.Sequential(nn.Embedding(10, FEATURES), mlp(FEATURES, 8, CLASSES))
    return fit(
        model,
        lambda ids, y: F.cross_entropy(model(ids).flatten(0, 1), y.flatten()),
        lambda n: call(torch.randint(0, 10, (1, n)), labels(n)[None]),
    )


@row(Cost(loops=2, reduce=["loss = F.cross_entropy(model(x).mean(1), y)"]))
def samples_in_a_list():
    """Sequences of unequal length in a Python list, padded in the step."""
    model = mlp(FEATURES, 8, CLASSES)
    optimizer = sgd(model)

    def step(xs, y):
        optimizer.zero_grad()
        x = nn.utils.rnn.pad_sequence(xs, batch_first=True)
        loss = F.cross_entropy(model(x).mean(1), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(n):
        return call([torch.randn(2 + i % 3, FEATURES) for i in range(n)], labels(n))

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def a_generator():
    """Of the real samples, only their number enters the graph."""
    generator, critic = mlp(FEATURES, 8, 5), mlp(5, 8, 1)
    optimizer = sgd(generator)

    def step(real):
        optimizer.zero_grad()
        phase = torch.arange(len(real)).to(real)[:, None] * torch.linspace(0, 1, FEATURES).to(real)
        loss = F.softplus(-critic(generator(phase.sin()))).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    models = {"generator": generator, "critic": critic}
    return Case(step, lambda n: call(torch.randn(n, 5)), models, [optimizer])
