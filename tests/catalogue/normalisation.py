"""Normalisation: over features it splits freely; over the batch every layer is a barrier, twice."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, row

CLASSES = 3


def classifier(model, *shape) -> Case:
    """MSE keeps the loss free of barriers: what this file's rows cost is the layers'."""
    return fit(
        model,
        lambda x, y: F.mse_loss(model(x), y),
        lambda n: call(torch.randn(n, *shape), torch.randn(n, CLASSES)),
    )


def dense(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.Tanh(), nn.Linear(8, CLASSES))


def convolutional(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(36, CLASSES))


@row(Cost(loops=1))
def layer_norm():
    return classifier(dense(nn.LayerNorm(8)), 4)


@row(Cost(loops=1))
def rms_norm():
    return classifier(dense(nn.RMSNorm(8)), 4)


@row(Cost(loops=1))
def group_norm():
    return classifier(convolutional(nn.GroupNorm(2, 4)), 2, 5, 5)


@row(Cost(loops=1))
def instance_norm():
    """An instance norm is a batch norm of a batch that was folded into the channels: samples stay apart."""
    return classifier(convolutional(nn.InstanceNorm2d(4, affine=True)), 2, 5, 5)


@row(Cost(loops=1))
def weight_norm():
    """The weight is the same in every micro-batch: computed once, before the loop."""
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    return classifier(nn.Sequential(linear, nn.Linear(8, CLASSES)), 4)


@row(Cost(loops=1))
def spectral_norm():
    """Its power iteration edits a buffer, once a step and not once a micro-batch."""
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))
    return classifier(nn.Sequential(linear, nn.Linear(8, CLASSES)), 4)


@row(Cost(loops=3, reduce=["lambda x, y: F.mse_loss(model(x), y),"] * 3))
def batch_norm_1d():
    """Three loops: the statistics; the layers above and two sums of its gradient; the layers below.

    Its running statistics, and `num_batches_tracked`, change once an update.
    """
    return classifier(dense(nn.BatchNorm1d(8)), 4)


@row(Cost(loops=3, reduce=["lambda x, y: F.mse_loss(model(x), y),"] * 3))
def batch_norm_2d():
    """As in one dimension, the sums run over the pixels too; every sample brings the same number."""
    return classifier(convolutional(nn.BatchNorm2d(4)), 2, 5, 5)


@row(Cost(loops=3, reduce=["lambda x, y: F.mse_loss(model(x), y),"] * 3))
def batch_norm_without_running_statistics():
    return classifier(dense(nn.BatchNorm1d(8, affine=False, track_running_stats=False)), 4)


@row(Cost(loops=1))
def batch_norm_in_eval_mode():
    """Frozen statistics are constants: an affine map, and no barrier."""
    norm = nn.BatchNorm1d(8).eval()
    norm.running_mean.normal_()
    return classifier(dense(norm), 4)


@row(Cost(loops=5, reduce=["return x + torch.tanh(self.norm(self.linear(x)))"] * 6))
def batch_norm_in_a_residual_net():
    """The value before each norm is needed after it as well: saved across the barrier, not computed again."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return x + torch.tanh(self.norm(self.linear(x)))

    return classifier(nn.Sequential(nn.Linear(4, 8), Block(), Block(), nn.Linear(8, CLASSES)), 4)


@row(Cost(loops=33, reduce=["lambda x, y: F.mse_loss(model(x), y),"] * 48))
def sixteen_batch_norms():
    """33 loops: two barriers a layer. Each layer runs once forward, at most once more: never 16 times."""
    layers = [layer for _ in range(16) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh())]
    return classifier(nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, CLASSES)), 4)


@row(Cost(loops=2, reduce=["standardised = (x - x.mean(dim=0)) / x.std(dim=0)"] * 2))
def standardised_input():
    """Features standardised over the batch: data alone, so they are stage 0, and the model runs once."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES))

    def loss(x, y):
        standardised = (x - x.mean(dim=0)) / x.std(dim=0)
        return F.mse_loss(model(standardised), y)

    return fit(model, loss, lambda n: call(torch.randn(n, 4), torch.randn(n, CLASSES)))
