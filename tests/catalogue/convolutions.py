"""Convolutional nets: every sample by itself, so one loop and no barrier, whatever the layers."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, row

OUTPUTS = 3


def image_model(*layers: nn.Module) -> Case:
    """From 8 x 8 pixels to a few numbers."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), *layers)
    return regression(model, lambda n: call(torch.randn(n, 2, 8, 8), torch.randn(n, OUTPUTS)))


def image_to_image(*layers: nn.Module) -> Case:
    """From 8 x 8 pixels to 16 x 16."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), *layers)
    return regression(model, lambda n: call(torch.randn(n, 2, 8, 8), torch.randn(n, 1, 16, 16)))


def regression(model: nn.Module, batch) -> Case:
    return fit(model, lambda x, y: F.mse_loss(model(x), y), batch)


@row(Cost(loops=1))
def max_pooling():
    return image_model(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, OUTPUTS))


@row(Cost(loops=1))
def average_pooling():
    return image_model(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, OUTPUTS))


@row(Cost(loops=1))
def adaptive_average_pooling():
    return image_model(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, OUTPUTS))


@row(Cost(loops=1))
def adaptive_max_pooling():
    return image_model(nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(36, OUTPUTS))


@row(Cost(loops=1))
def global_average_pooling():
    return image_model(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, OUTPUTS))


@row(Cost(loops=1))
def depthwise_convolution():
    depthwise = nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=1, padding_mode="reflect")
    return image_model(depthwise, nn.Flatten(), nn.Linear(288, OUTPUTS))


@row(Cost(loops=1))
def transposed_convolution():
    return image_to_image(nn.ConvTranspose2d(4, 1, 2, stride=2))


@row(Cost(loops=1))
def bilinear_upsampling():
    return image_to_image(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 1, 1))


@row(Cost(loops=1))
def pixel_shuffle():
    return image_to_image(nn.PixelShuffle(2))


@row(Cost(loops=1))
def channels_last():
    """Same values in another order of memory: what is put together has the full batch's strides."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3))
    model.to(memory_format=torch.channels_last)

    def batch(n):
        return call(torch.randn(n, 2, 8, 8).to(memory_format=torch.channels_last), torch.randn(n, 3, 4, 4))

    return regression(model, batch)


@row(Cost(loops=1))
def convolution_over_time():
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, OUTPUTS))
    return regression(model, lambda n: call(torch.randn(n, 3, 8), torch.randn(n, OUTPUTS)))
