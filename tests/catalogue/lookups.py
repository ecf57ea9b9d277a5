"""Lookups that one fused operator does: bags of words, their weights, an adapter over a table."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row

WORDS, LENGTH, FEATURES = 20, 5, 4


def bags(mode: str, **options) -> Case:
    """A classifier of bags of words, each a row of `LENGTH`."""
    model = nn.Sequential(nn.EmbeddingBag(WORDS, FEATURES, mode=mode, **options), mlp(FEATURES, 8, 3))
    return fit(
        model,
        lambda words, label: F.cross_entropy(model(words), label),
        lambda n: call(torch.randint(WORDS, (n, LENGTH)), torch.randint(3, (n,))),
    )


@row(Cost(loops=1))
def bag_of_words_summed():
    return bags("sum")


@row(Cost(loops=1))
def bag_of_words_averaged():
    return bags("mean")


@row(Cost(loops=1))
def bag_of_words_with_the_largest():
    """A word that stands twice in a bag is its own tie: it has the gradient once."""
    return bags("max")


@row(Cost(loops=1))
def padded_bag_averaged():
    return bags("mean", padding_idx=-2)


@row(Cost(loops=1))
def padded_bag_with_the_largest():
    return bags("max", padding_idx=0)


@row(Cost(loops=1))
def bag_of_words_weighted():
    """The weights are trained as well."""
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(WORDS, FEATURES, mode="sum"), "weight": mlp(3, LENGTH)})

    def loss(words, x, target):
        return F.mse_loss(model["bag"](words, per_sample_weights=model["weight"](x)), target)

    return fit(
        model,
        loss,
        lambda n: call(torch.randint(WORDS, (n, LENGTH)), torch.randn(n, 3), torch.randn(n, FEATURES)),
    )


class WeightDecomposed(nn.Module):
    """DoRA (Liu et al. 2024), as peft writes it: a frozen layer, a low-rank change of its direction, a magnitude."""

    def __init__(self, fan_in, fan_out, rank=2):
        super().__init__()
        self.base = nn.Linear(fan_in, fan_out).requires_grad_(False)
        self.down, self.up = nn.Linear(fan_in, rank, bias=False), nn.Linear(rank, fan_out, bias=False)
        self.magnitude = nn.Parameter(self.base.weight.norm(dim=1).detach().clone())

    def forward(self, x):
        change = self.up(self.down(torch.eye(self.down.in_features, device=x.device, dtype=x.dtype))).T
        norm = torch.linalg.norm(self.base.weight + 2 * change.detach(), dim=1).detach()
        scale = (self.magnitude / norm).view(1, -1)
        direction = F.linear(x, self.base.weight)
        return self.base(x) + (scale - 1) * direction + scale * self.up(self.down(x)) * 2


@row(Cost(loops=1))
def adapter_with_a_magnitude():
    model = nn.Sequential(WeightDecomposed(FEATURES, 64), nn.Tanh(), WeightDecomposed(64, 3))
    return fit(
        model,
        lambda x, label: F.cross_entropy(model(x), label),
        lambda n: call(torch.randn(n, FEATURES), torch.randint(3, (n,))),
    )
