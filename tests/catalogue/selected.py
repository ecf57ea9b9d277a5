"""Networks on rows that data selects or orders, or that come in another number than the batch."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row

FEATURES, CLASSES, WORDS, PADDING = 4, 3, 10, 0


def classified(loss_fn) -> Case:
    """``loss_fn(model, x, y)``; a sixth of the labels, or more, is missing (-1)."""
    model = mlp(FEATURES, 8, CLASSES)

    def batch(n):
        return call(torch.randn(n, FEATURES), torch.arange(n) % (CLASSES + 1) - 1)

    return fit(model, lambda x, y: loss_fn(model, x, y), batch)


@row(Cost(loops=2, reduce=["return F.cross_entropy(model(x[known]), y[known])"]))
def samples_with_a_label():
    """The others are left out before the model sees them."""

    def loss_fn(model, x, y):
        known = y != -1
        return F.cross_entropy(model(x[known]), y[known])

    return classified(loss_fn)


@row(Cost(loops=1))
def samples_ordered_by_label():
    """Later ones count more: a function of the position in the order."""

    def loss_fn(model, x, y):
        order = y.argsort(stable=True)
        losses = F.cross_entropy(model(x[order]), y[order].clamp_min(0), reduction="none")
        return (losses * torch.arange(len(x), device=x.device) / len(x)).mean()

    return classified(loss_fn)


@row(Cost(loops=2, reduce=["return F.cross_entropy(model(tokens[real]), targets[real])"]))
def tokens_without_their_padding():
    model = nn.Sequential(nn.Embedding(WORDS, FEATURES), mlp(FEATURES, 8, WORDS))

    def loss_fn(tokens, targets):
        real = tokens != PADDING
        return F.cross_entropy(model(tokens[real]), targets[real])

    return fit(model, loss_fn, lambda n: call(torch.randint(0, WORDS, (n, 5)), torch.randint(0, WORDS, (n, 5))))


@row(
    Cost(
        loops=7,
        reduce=["score = score.index_add(0, where, net(x[where]))"],
        gather=["return (score[:, 0] - y).square().mean()"] + ["score = score.index_add(0, where, net(x[where]))"] * 2,
        gathered=96,
    )
)
def a_network_for_each_class():
    """Each on its own samples, summed up where they came from: a router that labels decide."""
    model = nn.ModuleList(mlp(FEATURES, 8, 1) for _ in range(CLASSES))

    def loss_fn(x, y):
        score = torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)
        for label, net in enumerate(model):
            where = (y == label).nonzero().squeeze(1)
            score = score.index_add(0, where, net(x[where]))
        return (score[:, 0] - y).square().mean()

    return fit(model, loss_fn, lambda n: call(torch.randn(n, FEATURES), torch.arange(n) % CLASSES))


@row(Cost(loops=3, reduce=["return F.cross_entropy(model(x), y) + ((sure > 0.35) * losses).mean()"]))
def labels_made_for_a_larger_batch():
    """FixMatch: twice as many samples without a label, in two views, beside those with one."""
    model = mlp(FEATURES, 8, CLASSES)

    def loss_fn(x, y, weak, strong):
        with torch.no_grad():
            sure, target = model(weak).softmax(-1).max(-1)
        losses = F.cross_entropy(model(strong), target, reduction="none")
        return F.cross_entropy(model(x), y) + ((sure > 0.35) * losses).mean()

    def batch(n):
        x, views = torch.randn(n, FEATURES), torch.randn(2, 2 * n, FEATURES)
        return call(x, torch.arange(n) % CLASSES, *views)

    return fit(model, loss_fn, batch)
